"""An array of independent values: what the families of likelihoods have in common."""

import abc
import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint


class ValueArray(Distribution, abc.ABC):
    """An array of values that are independent of each other, all of it one event.

    Args:
        shape: Batch and event, `[*batch, *event]`.
        dtype: Of the parameters, and so of what is returned.
        event_dims: How many of the last axes are the event.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class

    def __init__(self, shape: torch.Size, dtype: torch.dtype, event_dims: int) -> None:
        if event_dims < 1:
            raise ValueError(f"an array has at least one dimension, not {event_dims}")
        self.dtype = dtype
        super().__init__(shape[:-event_dims], shape[-event_dims:], validate_args=False)

    @abc.abstractmethod
    def log_prob_of_each(self, value: Tensor) -> Tensor:
        """Return the log-probability or log-density of each value of an array, `[*lead, *event]`, in nats."""

    @abc.abstractmethod
    def impossible(self, value: Tensor) -> Tensor:
        """Return where a value is one that the family never takes, of the shape of `value`; not where it is NaN."""

    @abc.abstractmethod
    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`, `[*sample, *batch, *event]`, by torch's global generator."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, `[*lead]`; -inf for an array that cannot be.

        Raises:
            ValueError: The value's last axes are not the event's.
        """
        check_event(value, self.event_shape)
        value = value.to(self.dtype)
        axes = tuple(range(-len(self.event_shape), 0))
        never = self.impossible(value).flatten(axes[0]).any(-1)
        return self.log_prob_of_each(value).sum(axes).masked_fill(never, -math.inf)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return arrays, by torch's global generator, without a gradient."""
        with torch.no_grad():
            return self.draw(torch.Size(sample_shape) + self.batch_shape + self.event_shape)


def check_event(value: Tensor, event_shape: torch.Size) -> None:
    """Refuse an array of another shape, which broadcasting could score without a word.

    Raises:
        ValueError: The value's last axes are not the event's.
    """
    if value.shape[value.dim() - len(event_shape) :] != event_shape:
        raise ValueError(f"an array of the shape {tuple(value.shape)} does not end in the event {tuple(event_shape)}")


def not_a_level(value: Tensor, num_levels: int) -> Tensor:
    """Return where a value is none of 0 .. num_levels - 1, and not NaN."""
    return (value < 0) | (value > num_levels - 1) | ((value - value.round()).abs() > 0)
