"""Categorical likelihood, for discrete data."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import CategoricalArray
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.bisection import solve_increasing
from elbo_bench.models.likelihoods.kinds import levels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Categorical(Likelihood):
    """Independent levels with any probabilities. The decoder returns a logit for each level of each value.

    The initial distribution has the training mean, clipped to [.001, .999] of the range. It is the distribution with
    this mean and the largest entropy, mixed with the uniform distribution of weight .001, so that no level has a
    negligible probability.
    """

    def module(self, info: DataInfo) -> "CategoricalModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are not discrete.
        """
        return CategoricalModule(info, levels("a categorical", info))


class CategoricalModule(LikelihoodModule):
    """Maps logits to p(x|z)."""

    def __init__(self, info: DataInfo, num_levels: int) -> None:
        super().__init__()
        self.event_dims, self.num_outputs = len(info.shape), num_levels
        self.bias = _log_probabilities(info.train_mean.double(), num_levels).to(info.train_mean.dtype)

    def forward(self, parameters: Float[Tensor, "*lead outputs"]) -> CategoricalArray:
        """Return p(x|z)."""
        return CategoricalArray(parameters, event_dims=self.event_dims)


def _log_probabilities(mean: Float[Tensor, "*shape"], num_levels: int) -> Float[Tensor, "*shape L"]:
    """Return log[(1 - e) exp(slope v) / normaliser + e / L] for each level v. The slope is solved from the mean."""
    top = num_levels - 1
    level = torch.arange(num_levels, dtype=mean.dtype, device=mean.device)

    def tilted(slope: Tensor) -> Tensor:
        return (slope.unsqueeze(-1) * level).softmax(-1)

    wanted = mean.clamp(0.001 * top, 0.999 * top)
    of_tilted = (wanted - _UNIFORM * top / 2) / (1 - _UNIFORM)
    slope = solve_increasing(lambda slope: tilted(slope) @ level, of_tilted, -10.0, 10.0)
    return ((1 - _UNIFORM) * tilted(slope) + _UNIFORM / num_levels).log()


_UNIFORM = 0.001
"""Initial weight of the uniform distribution."""
