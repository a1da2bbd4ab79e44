"""Gaussian likelihood, for continuous data."""

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
    """Independent normal values. The decoder returns their means, which are the training mean at initialisation.

    A density has no upper limit. If a value of x is constant in the data, then with `per_pixel` and `predicted` its
    standard deviation can go to zero and log p(x) to infinity.

    Attributes:
        variance: `"fixed"`: the standard deviation is `std`. `"learned"`: one learned number. `"per_pixel"`: one
            learned number for each value of x. `"predicted"`: the decoder returns one for each value of x.
        std: The standard deviation, or its initial value, in the units of the data. None is the spread of the training
            data about their mean.
    """

    variance: Variance = "learned"
    std: PositiveFloat | None = None

    def module(self, info: DataInfo) -> "GaussianModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are discrete. A density is not comparable with a probability.
        """
        refuse_unless_continuous("a Gaussian", info)
        return GaussianModule(info, self.variance, info.scale if self.std is None else self.std)


class GaussianModule(LikelihoodModule):
    """Maps means, and predicted log standard deviations if there are any, to p(x|z)."""

    def __init__(self, info: DataInfo, variance: Variance, std: float) -> None:
        super().__init__()
        self.event_dims = len(info.shape)
        self.num_outputs = 2 if variance == "predicted" else 1
        log_std = torch.full(info.shape, math.log(std), dtype=info.train_mean.dtype)
        self.bias = torch.stack([info.train_mean, log_std][: self.num_outputs], -1)
        if variance != "predicted":
            # One number, with as many axes as the event, so that it broadcasts to any batch.
            shared = log_std if variance == "per_pixel" else log_std.flatten()[:1].reshape((1,) * self.event_dims)
            self.log_std = nn.Parameter(shared.clone(), requires_grad=variance != "fixed")

    def forward(self, parameters: Float[Tensor, "*lead outputs"]) -> NormalArray:
        """Return p(x|z)."""
        log_std = parameters[..., 1] if self.num_outputs == 2 else self.log_std
        return NormalArray(parameters[..., 0], log_std, event_dims=self.event_dims)
