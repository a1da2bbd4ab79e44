"""The Gaussian likelihood, for continuous data."""

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import NormalArray
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.kinds import refuse_unless_continuous

Variance = Literal["fixed", "learned", "per_pixel", "predicted"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Likelihood):
    """Independent normal values; the decoder gives their means, which begin at the training mean exactly.

    A density has no upper limit: where a value of the data never varies, `per_pixel` and `predicted` let its standard
    deviation shrink, and log p(x) grow, without end.

    Attributes:
        variance: Whether the standard deviation is `fixed`, one number that is `learned`, one learned for each value
            of x (`per_pixel`), or `predicted` for each by the decoder.
        std: The standard deviation, in the units of the data: for good, or to begin with. None is how far the training
            data spread about their mean.
    """

    variance: Variance = "learned"
    std: PositiveFloat | None = None

    def module(self, info: DataInfo) -> "GaussianModule":
        """Return the module for the data.

        Raises:
            ValueError: The data is discrete: a density of it is not comparable with a probability.
        """
        refuse_unless_continuous("a Gaussian", info)
        return GaussianModule(info, self.variance, info.scale if self.std is None else self.std)


class GaussianModule(LikelihoodModule):
    """Maps means, and log standard deviations where they are predicted, to normal values."""

    def __init__(self, info: DataInfo, variance: Variance, std: float) -> None:
        super().__init__()
        self.event_dims = len(info.shape)
        self.num_outputs = 2 if variance == "predicted" else 1
        log_std = torch.full(info.shape, math.log(std), dtype=info.train_mean.dtype)
        self.bias = torch.stack([info.train_mean, log_std][: self.num_outputs], -1)
        if variance != "predicted":
            # One axis for each of the event's, so that it broadcasts against any batch.
            shared = log_std if variance == "per_pixel" else log_std.flatten()[:1].reshape((1,) * self.event_dims)
            self.log_std = nn.Parameter(shared.clone(), requires_grad=variance != "fixed")

    def forward(self, parameters: Float[Tensor, "*lead outputs"]) -> NormalArray:
        """Return p(x|z)."""
        log_std = parameters[..., 1] if self.num_outputs == 2 else self.log_std
        return NormalArray(parameters[..., 0], log_std, event_dims=self.event_dims)
