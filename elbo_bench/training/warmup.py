"""Warm-ups: a field of the objective changes over the first epochs. Evaluations use the configured objective."""

import abc
import dataclasses
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from elbo_bench.config.typed import check_fields
from elbo_bench.errors import nearest
from elbo_bench.objectives.base import Objective

_TRIED = 64
"""Number of values of a continuous field that are tried on the objective before training begins."""
_MOST = 4096
"""Largest start of an integer field such as num_samples. Each value on the way is tried, and needs memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup(abc.ABC):
    """The objective of each batch, as a function of the number of epochs before the batch."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abc.abstractmethod
    def end(self) -> float:
        """Epochs after which the objective is always the configured one."""

    @abc.abstractmethod
    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective of a batch that begins `epoch` epochs after the start of training.

        Raises:
            ValueError: The objective refuses the value of its field.
        """

    @abc.abstractmethod
    def check(self, objective: Objective) -> None:
        """Check that the warm-up fits an objective.

        Raises:
            ValueError: The objective has no such field, or refuses a value on the way. The message suggests a field.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoWarmup(Warmup):
    """The configured objective from the first batch on."""

    @property
    def end(self) -> float:
        """Return 0: there is no warm-up."""
        return 0.0

    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective itself."""
        return objective

    def check(self, objective: Objective) -> None:
        """Accept every objective."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Warmup):
    """One field changes linearly, batch by batch, from `start` to its configured value.

    Beta from 0 to 1 is the warm-up of Sønderby et al., 2016, "Ladder variational autoencoders".

    Attributes:
        field: Name of a numeric field of the objective. An integer field, such as num_samples, is rounded, and is at
            least 1.
        start: Its value in the first batch.
        epochs: Epochs after which it has the configured value. A fraction of an epoch is allowed.
    """

    field: str = "beta"
    start: float = 0.0
    epochs: PositiveFloat = 100.0

    @property
    def end(self) -> float:
        """Epochs after which the field has its configured value."""
        return self.epochs

    def share(self, epoch: float) -> float:
        """Return the fraction of the way from `start` to the configured value, in 0 .. 1."""
        return min(1.0, epoch / self.epochs)

    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective on the line."""
        return approach(objective, self.field, self.start, self.share(epoch))

    def check(self, objective: Objective) -> None:
        """Try the values on the line."""
        try_way(objective, self.field, self.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cyclic(Warmup):
    """In each cycle, one field changes from `start` to its configured value, and stays there until the next cycle.

    (Fu et al., 2019, "Cyclical annealing schedule: a simple approach to mitigating KL vanishing".)

    Attributes:
        field: Name of a numeric field of the objective. An integer field, such as num_samples, is rounded, and is at
            least 1.
        start: Its value in the first batch of each cycle.
        epochs: Epochs of all cycles together. After them the field keeps its configured value.
        cycles: Number of cycles.
        ratio: Fraction of a cycle in which the field changes.
    """

    field: str = "beta"
    start: float = 0.0
    epochs: PositiveFloat = 100.0
    cycles: PositiveInt = 4
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5

    @property
    def end(self) -> float:
        """Epochs after which the field has reached its configured value in the last cycle."""
        return self.epochs * (self.cycles - 1 + self.ratio) / self.cycles

    def share(self, epoch: float) -> float:
        """Return the fraction of the way from `start` to the configured value, in 0 .. 1."""
        if epoch >= self.epochs:
            return 1.0
        return min(1.0, epoch * self.cycles / self.epochs % 1.0 / self.ratio)

    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective within its cycle."""
        return approach(objective, self.field, self.start, self.share(epoch))

    def check(self, objective: Objective) -> None:
        """Try the values of a cycle."""
        try_way(objective, self.field, self.start)


def approach(objective: Objective, field: str, start: float, share: float) -> Objective:
    """Return an objective with one field at a fraction of the way from `start` to its own value.

    Raises:
        ValueError: The objective refuses the value.
    """
    own = getattr(objective, field)
    if share >= 1.0:
        return objective
    value = start + share * (own - start)
    return dataclasses.replace(objective, **{field: max(1, round(value)) if isinstance(own, int) else value})


def try_way(objective: Objective, field: str, start: float) -> None:
    """Check that the objective has a numeric field, and accepts the values on the way.

    Raises:
        ValueError: The message suggests a field, or says why the value is refused.
    """
    kind = type(objective).__name__
    numbers = [
        each.name
        for each in dataclasses.fields(objective)
        # The number of training examples comes from the data.
        if type(getattr(objective, each.name)) in (int, float) and each.name != "num_train"
    ]
    if field not in numbers:
        raise ValueError(f"warmup.field={field}: {kind} has no such number; {nearest(field, numbers)}")
    own = getattr(objective, field)
    if isinstance(own, int) and start < 0:
        raise ValueError(f"warmup.start={start:g}: {field} counts, and is never negative")
    if isinstance(own, int) and start > _MOST:
        raise ValueError(f"warmup.start={start:g}: {field} counts, and {_MOST} is the most that is begun with")
    steps = max(1, int(abs(own - start))) if isinstance(own, int) else _TRIED
    for step in range(steps):
        try:
            approach(objective, field, start, step / steps)
        except ValueError as error:
            raise ValueError(f"warmup.start={start:g}: on the way to {field}={own:g}, {error}") from None
