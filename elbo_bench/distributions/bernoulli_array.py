"""The distribution of an array of independent binary values."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, boolean, independent

from elbo_bench.distributions.value_array import check_event
from elbo_bench.numerics import log_sigmoid_sum, negative_softplus_sum


class BernoulliArray(Distribution):
    """Creates the distribution of an array of independent binary values. The array is one event.

    `log_prob` costs one sigmoid or softplus for each logit. It is exact for probabilities that round to 0 or 1.

    Args:
        logits: Log-odds of the value 1, `[*batch, *event]`.
        event_dims: Number of axes of the event.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class

    def __init__(self, logits: Tensor, event_dims: int) -> None:
        if event_dims < 1:
            raise ValueError(f"an array has at least one dimension, not {event_dims}")
        self.logits = logits
        split = logits.dim() - event_dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def support(self) -> Constraint:
        """Arrays of zeros and ones."""
        return independent(boolean, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Probability of each value being 1."""
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, or -inf for an array with values other than 0 and 1."""
        check_event(value, self.event_shape)
        event_dims = len(self.event_shape)
        value = value.flatten(-event_dims).to(self.logits.dtype)
        log_p = log_sigmoid_sum(self.logits.flatten(-event_dims), 2 * value - 1)
        return log_p.masked_fill(_never(value), -math.inf)

    def cross_log_prob(self, value: Float[Tensor, "N *event"]) -> Float[Tensor, "S N"]:
        """Return log p(value) in nats of N values under S arrays of logits, by one matrix product."""
        check_event(value, self.event_shape)
        logits = self.logits.flatten(-len(self.event_shape))
        value = value.flatten(1)
        log_p = logits @ value.mT + negative_softplus_sum(logits)[:, None]
        return log_p.masked_fill(_never(value), -math.inf)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return arrays of zeros and ones, from torch's global generator."""
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(torch.Size(sample_shape) + self.logits.shape))


def _never(value: Float[Tensor, "*lead D"]) -> Bool[Tensor, "*lead"]:
    """Return which arrays have a value other than 0, 1 and NaN. The log-probability of NaN is NaN."""
    return (value * (1 - value)).abs().gt(0).any(-1)
