"""The base classes of the likelihoods: distributions of arrays of independent values."""

import abc
import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, independent, integer_interval


class ValueArray(Distribution, abc.ABC):
    """The distribution of an array of independent values. The array is one event.

    Args:
        shape: Shape of batch and event, `[*batch, *event]`.
        dtype: Type of the parameters and of all results.
        event_dims: Number of axes of the event.
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
        """Return which values are outside the support, in the shape of `value`. NaN counts as inside."""

    @abc.abstractmethod
    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape` `[*sample, *batch, *event]`, from torch's global generator."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats, `[*lead]`, or -inf for an array outside the support.

        Raises:
            ValueError: `value` does not end with the shape of the event.
        """
        check_event(value, self.event_shape)
        value = value.to(self.dtype)
        axes = tuple(range(-len(self.event_shape), 0))
        never = self.impossible(value).flatten(axes[0]).any(-1)
        return self.log_prob_of_each(value).sum(axes).masked_fill(never, -math.inf)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return arrays without a gradient, from torch's global generator."""
        with torch.no_grad():
            return self.draw(torch.Size(sample_shape) + self.batch_shape + self.event_shape)


class LevelArray(ValueArray):
    """The distribution of an array of independent levels 0 .. num_levels - 1."""

    num_levels: int

    @property
    def support(self) -> Constraint:
        """Arrays of levels."""
        return independent(integer_interval(0, self.num_levels - 1), len(self.event_shape))

    def impossible(self, value: Tensor) -> Tensor:
        """Return which values are not levels. NaN counts as a level."""
        return (value < 0) | (value > self.num_levels - 1) | ((value - value.round()).abs() > 0)


def check_event(value: Tensor, event_shape: torch.Size) -> None:
    """Check the shape of an array. Without this check, broadcasting would accept a wrong shape silently.

    Raises:
        ValueError: `value` does not end with the shape of the event.
    """
    if value.shape[value.dim() - len(event_shape) :] != event_shape:
        raise ValueError(
            f"an array of shape {tuple(value.shape)} does not end with the event shape {tuple(event_shape)}"
        )
