"""The distribution of an array of independent rounded mixtures of logistic variables."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical

from elbo_bench.distributions.logistic_levels import level_mean, log_level_mass, round_logistic
from elbo_bench.distributions.value_array import LevelArray


class DiscretisedLogisticMixtureArray(LevelArray):
    """Creates the distribution of an array of independent levels 0 .. num_levels - 1. The array is one event.

    Each value is a mixture of logistic variables, rounded to the nearest level. The first and the last level include
    the tails. The channels of a pixel are independent, too.

    Source: Salimans, Karpathy, Chen & Kingma, 2017, "PixelCNN++: improving the PixelCNN with discretized logistic
    mixture likelihood and other modifications".

    Args:
        logits: Log-weights of the C components of each value, up to a constant, `[*batch, *event, C]`.
        loc: Means of the components, in levels.
        log_scale: Logarithms of the scales of the components, in levels.
        num_levels: Number of levels, at least 2.
        event_dims: Number of axes of the event.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*shape C"],
        loc: Float[Tensor, "*shape C"],
        log_scale: Float[Tensor, "*shape C"],
        num_levels: int,
        *,
        event_dims: int,
    ) -> None:
        self.logits, self.loc, self.log_scale, self.num_levels = logits, loc, log_scale, num_levels
        super().__init__(loc.shape[:-1], loc.dtype, event_dims)

    @property
    def mean(self) -> Tensor:
        """Mean of each value, in levels."""
        return (self.logits.softmax(-1) * level_mean(self.loc, self.log_scale, self.num_levels)).sum(-1)

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-probability of each level in nats."""
        by_component = log_level_mass(value.unsqueeze(-1), self.loc, self.log_scale, self.num_levels)
        return torch.logsumexp(self.logits.log_softmax(-1) + by_component, -1)

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`. Each value draws a component, and then a level of it."""
        lead = shape[: len(shape) - self.logits.dim() + 1]
        chosen = Categorical(logits=self.logits, validate_args=False).sample(lead).unsqueeze(-1)
        loc = self.loc.expand(*shape, -1).gather(-1, chosen).squeeze(-1)
        log_scale = self.log_scale.expand(*shape, -1).gather(-1, chosen).squeeze(-1)
        uniform = torch.rand(shape, dtype=self.dtype, device=self.loc.device)
        return round_logistic(uniform, loc, log_scale, self.num_levels)
