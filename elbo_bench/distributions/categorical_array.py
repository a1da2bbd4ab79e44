"""An array of independent levels, each with a probability of its own."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Categorical
from torch.distributions.constraints import Constraint, independent, integer_interval

from elbo_bench.distributions.value_array import ValueArray, not_a_level


class CategoricalArray(ValueArray):
    """Creates an array of independent levels 0 .. L - 1 with any probabilities, all of it one event.

    Args:
        logits: Log-probabilities of the L levels of each value up to a constant, `[*batch, *event, L]`.
        event_dims: How many axes before the levels are the event.
    """

    def __init__(self, logits: Float[Tensor, "*shape L"], event_dims: int) -> None:
        self.logits, self.num_levels = logits, logits.shape[-1]
        super().__init__(logits.shape[:-1], logits.dtype, event_dims)

    @property
    def support(self) -> Constraint:
        """Arrays of levels."""
        return independent(integer_interval(0, self.num_levels - 1), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean of each level."""
        levels = torch.arange(self.num_levels, dtype=self.dtype, device=self.logits.device)
        mean: Tensor = self.logits.softmax(-1) @ levels
        return mean

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-probability of each level in nats."""
        # A value that is no level is refused elsewhere; here it must only not break the look-up.
        level = value.nan_to_num().clamp(0, self.num_levels - 1).long().unsqueeze(-1)
        shape = torch.broadcast_shapes(self.logits.shape[:-1], value.shape)
        of_level = self.logits.expand(*shape, -1).gather(-1, level.expand(*shape, 1)).squeeze(-1)
        log_p: Tensor = torch.where(value.isnan(), torch.nan, of_level - self.logits.logsumexp(-1))
        return log_p

    def impossible(self, value: Float[Tensor, "*other"]) -> Bool[Tensor, "*other"]:
        """Return where a value is no level."""
        return not_a_level(value, self.num_levels)

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`."""
        lead = shape[: len(shape) - self.logits.dim() + 1]
        levels: Tensor = Categorical(logits=self.logits, validate_args=False).sample(lead)
        return levels.to(self.dtype)
