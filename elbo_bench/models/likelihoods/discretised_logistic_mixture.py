"""Discretised logistic mixture likelihood, for discrete data."""

import dataclasses
import math

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiscretisedLogisticMixtureArray
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.discretised_logistic import SCALE
from elbo_bench.models.likelihoods.kinds import levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscretisedLogisticMixture(Likelihood):
    """Independent rounded logistic mixtures. The decoder returns log-weights, means and log-scales.

    Means and scales are in units of the range. At initialisation all weights are equal, the scales are a tenth of the
    range, and the means are spread evenly over two fifths of the range around the training mean. The mean of the
    mixture is the training mean. The mean of the levels differs slightly from it, as the first and the last level
    include the tails. The channels of a pixel are independent, too.

    Source: Salimans, Karpathy, Chen & Kingma, 2017, "PixelCNN++: improving the PixelCNN with discretized logistic
    mixture likelihood and other modifications".

    Attributes:
        num_components: Number of components of each mixture, C.
    """

    num_components: PositiveInt = 5

    def module(self, info: DataInfo) -> "DiscretisedLogisticMixtureModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are not discrete.
        """
        num_levels = levels("a discretised logistic mixture", info)
        return DiscretisedLogisticMixtureModule(info, num_levels, self.num_components)


class DiscretisedLogisticMixtureModule(LikelihoodModule):
    """Maps C log-weights, C means and C log-scales, in this order, to p(x|z)."""

    def __init__(self, info: DataInfo, num_levels: int, num_components: int) -> None:
        super().__init__()
        self.event_dims, self.num_levels, self.num_components = len(info.shape), num_levels, num_components
        self.num_outputs = 3 * num_components
        mean = info.train_mean.unsqueeze(-1) / (num_levels - 1)
        spread = torch.linspace(-_SPREAD, _SPREAD, num_components) if num_components > 1 else torch.zeros(1)
        loc = mean + spread.to(mean)
        self.bias = torch.cat([torch.zeros_like(loc), loc, torch.full_like(loc, math.log(SCALE))], -1)

    def forward(self, parameters: Float[Tensor, "*lead outputs"]) -> DiscretisedLogisticMixtureArray:
        """Return p(x|z)."""
        logits, loc, log_scale = parameters.split(self.num_components, -1)
        top = self.num_levels - 1
        return DiscretisedLogisticMixtureArray(
            logits, top * loc, log_scale + math.log(top), self.num_levels, event_dims=self.event_dims
        )


_SPREAD = 0.2
"""Largest initial distance of a mean from the training mean, in units of the range."""
