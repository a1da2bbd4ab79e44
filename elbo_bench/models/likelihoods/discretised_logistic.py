"""Discretised logistic likelihood, for discrete data."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiscretisedLogisticArray
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.kinds import levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscretisedLogistic(Likelihood):
    """Independent rounded logistic values. The decoder returns means and log-scales, in units of the range.

    At initialisation the mean of the logistic distribution is the training mean, and its scale is a tenth of the range.
    The mean of the levels differs slightly from it, as the first and the last level include the tails.

    Source: Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow".
    """

    def module(self, info: DataInfo) -> "DiscretisedLogisticModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are not discrete.
        """
        return DiscretisedLogisticModule(info, levels("a discretised logistic", info))


class DiscretisedLogisticModule(LikelihoodModule):
    """Maps means and log-scales to p(x|z)."""

    num_outputs = 2

    def __init__(self, info: DataInfo, num_levels: int) -> None:
        super().__init__()
        self.event_dims, self.num_levels = len(info.shape), num_levels
        loc = info.train_mean / (num_levels - 1)
        self.bias = torch.stack([loc, torch.full_like(loc, math.log(SCALE))], -1)

    def forward(self, parameters: Float[Tensor, "*lead 2"]) -> DiscretisedLogisticArray:
        """Return p(x|z)."""
        top = self.num_levels - 1
        loc, log_scale = top * parameters[..., 0], parameters[..., 1] + math.log(top)
        return DiscretisedLogisticArray(loc, log_scale, self.num_levels, event_dims=self.event_dims)


SCALE = 0.1
"""Initial scale of the logistic distribution, in units of the range."""
