"""The distribution of an array of independent rounded logistic variables."""

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.distributions.logistic_levels import level_mean, log_level_mass, round_logistic
from elbo_bench.distributions.value_array import LevelArray


class DiscretisedLogisticArray(LevelArray):
    """Creates the distribution of an array of independent levels 0 .. num_levels - 1. The array is one event.

    Each value is a logistic variable, rounded to the nearest level. The first and the last level include the tails.

    Source: Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow".

    Args:
        loc: Mean of each logistic variable, in levels, `[*batch, *event]`. It may be outside the range.
        log_scale: Logarithm of each scale, in levels, in the shape of `loc`.
        num_levels: Number of levels, at least 2.
        event_dims: Number of axes of the event.
    """

    def __init__(
        self, loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int, event_dims: int
    ) -> None:
        self.loc, self.log_scale, self.num_levels = loc, log_scale, num_levels
        super().__init__(loc.shape, loc.dtype, event_dims)

    @property
    def mean(self) -> Tensor:
        """Mean of each value, in levels."""
        return level_mean(self.loc, self.log_scale, self.num_levels)

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-probability of each level in nats."""
        return log_level_mass(value, self.loc, self.log_scale, self.num_levels)

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`."""
        uniform = torch.rand(shape, dtype=self.dtype, device=self.loc.device)
        return round_logistic(uniform, self.loc, self.log_scale, self.num_levels)
