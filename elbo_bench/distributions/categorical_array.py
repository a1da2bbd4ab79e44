"""The distribution of an array of independent levels with any probabilities."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical

from elbo_bench.distributions.value_array import LevelArray


class CategoricalArray(LevelArray):
    """Creates the distribution of an array of independent levels 0 .. L - 1. The array is one event.

    Args:
        logits: Log-probabilities of the L levels of each value, up to a constant, `[*batch, *event, L]`.
        event_dims: Number of axes of the event.
    """

    def __init__(self, logits: Float[Tensor, "*shape L"], event_dims: int) -> None:
        self.logits, self.num_levels = logits, logits.shape[-1]
        super().__init__(logits.shape[:-1], logits.dtype, event_dims)

    @property
    def mean(self) -> Tensor:
        """Mean of each value, in levels."""
        levels = torch.arange(self.num_levels, dtype=self.dtype, device=self.logits.device)
        mean: Tensor = self.logits.softmax(-1) @ levels
        return mean

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-probability of each level in nats."""
        # `log_prob` handles values that are not levels. Here they must only not break the look-up.
        level = value.nan_to_num().clamp(0, self.num_levels - 1).long().unsqueeze(-1)
        shape = torch.broadcast_shapes(self.logits.shape[:-1], value.shape)
        of_level = self.logits.expand(*shape, -1).gather(-1, level.expand(*shape, 1)).squeeze(-1)
        log_p: Tensor = torch.where(value.isnan(), torch.nan, of_level - self.logits.logsumexp(-1))
        return log_p

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`."""
        lead = shape[: len(shape) - self.logits.dim() + 1]
        levels: Tensor = Categorical(logits=self.logits, validate_args=False).sample(lead)
        return levels.to(self.dtype)
