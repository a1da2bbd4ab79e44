"""An array of independent levels, each a logistic variable that is rounded."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions.constraints import Constraint, independent, integer_interval

from elbo_bench.distributions.logistic_levels import level_mean, log_level_mass, round_logistic
from elbo_bench.distributions.value_array import ValueArray, not_a_level


class DiscretisedLogisticArray(ValueArray):
    """Creates an array of independent levels 0 .. num_levels - 1, all of it one event.

    Each is a logistic variable rounded to the nearest level, and the first and the last take the tails.

    Source: Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow".

    Args:
        loc: Mean of each logistic variable, in levels, `[*batch, *event]`; it may lie outside the range.
        log_scale: Logarithm of each scale, in levels; of the shape of `loc`.
        num_levels: Number of levels, at least 2.
        event_dims: How many of the last axes are the event.
    """

    def __init__(
        self, loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int, event_dims: int
    ) -> None:
        self.loc, self.log_scale, self.num_levels = loc, log_scale, num_levels
        super().__init__(loc.shape, loc.dtype, event_dims)

    @property
    def support(self) -> Constraint:
        """Arrays of levels."""
        return independent(integer_interval(0, self.num_levels - 1), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean of each level."""
        return level_mean(self.loc, self.log_scale, self.num_levels)

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-probability of each level in nats."""
        return log_level_mass(value, self.loc, self.log_scale, self.num_levels)

    def impossible(self, value: Float[Tensor, "*other"]) -> Bool[Tensor, "*other"]:
        """Return where a value is no level."""
        return not_a_level(value, self.num_levels)

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`."""
        uniform = torch.rand(shape, dtype=self.dtype, device=self.loc.device)
        return round_logistic(uniform, self.loc, self.log_scale, self.num_levels)
