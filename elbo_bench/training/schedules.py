"""Learning-rate schedules: the factor on the learning rate in each epoch."""

import abc
import dataclasses
import itertools
import math
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from elbo_bench.config.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """A factor on the learning rate."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def factor(self, epoch: int) -> float:
        """Return the factor in an epoch, counted from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The learning rate stays what it is."""

    def factor(self, epoch: int) -> float:
        """Return 1."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Burda(Schedule):
    """Factor 10^(-i/7) for 3^i epochs, i = 0, 1, ...; the last one stays (Burda et al., 2016, section 5).

    Attributes:
        stages: How many there are: 8 make 3280 epochs.
    """

    stages: Annotated[int, Field(ge=1, le=20)] = 8

    def factor(self, epoch: int) -> float:
        """Return the factor of the stage that the epoch falls in."""
        ends = itertools.accumulate(3**stage for stage in range(self.stages))
        stage = sum(epoch >= end for end in ends)
        return float(10 ** (-min(stage, self.stages - 1) / 7))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `final`, after a linear warm-up (Loshchilov & Hutter, 2017, eq. 5).

    Attributes:
        epochs: Epoch in which `final` is reached; it stays there.
        warmup_epochs: Epochs of the warm-up, within `epochs`.
        final: Last factor.
    """

    epochs: PositiveInt = 100
    warmup_epochs: NonNegativeInt = 0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} must be less than epochs={self.epochs}")

    def factor(self, epoch: int) -> float:
        """Return the factor on the line, or on the cosine behind it."""
        if epoch < self.warmup_epochs:
            return (epoch + 1) / self.warmup_epochs
        progress = min(1.0, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps(Schedule):
    """One more factor `gamma` from each milestone on.

    Attributes:
        milestones: Epochs.
        gamma: Factor on the learning rate.
    """

    milestones: tuple[NonNegativeInt, ...] = (50, 75)
    gamma: PositiveFloat = 0.1

    def factor(self, epoch: int) -> float:
        """Return gamma to the number of milestones that lie behind."""
        return float(self.gamma ** sum(epoch >= milestone for milestone in self.milestones))
