"""Warm-ups: what training ascends on its way to the objective that is configured, which alone is evaluated."""

import abc
import dataclasses
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from elbo_bench.errors import nearest
from elbo_bench.objectives.base import Objective
from elbo_bench.typed import check_fields

_TRIED = 64
"""Values of a continuous field, from start to end, that an objective must accept before training begins."""
_MOST = 4096
"""Largest start of a field that counts: each value on the way is tried, and takes as much memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warmup(abc.ABC):
    """What is ascended in each batch: a function of the batch's place in training and of nothing else."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    @abc.abstractmethod
    def end(self) -> float:
        """Epochs after which the objective is the configured one for good."""

    @abc.abstractmethod
    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return what is ascended at `epoch` epochs, and parts of one, since training began.

        Raises:
            ValueError: The objective refuses the value that its field would have.
        """

    @abc.abstractmethod
    def check(self, objective: Objective) -> None:
        """Refuse an objective that cannot be warmed up so.

        Raises:
            ValueError: It lacks the field, or refuses a value on the way; the line names the nearest field.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoWarmup(Warmup):
    """The configured objective from the first batch on."""

    @property
    def end(self) -> float:
        """At once."""
        return 0.0

    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective itself."""
        return objective

    def check(self, objective: Objective) -> None:
        """Accept any."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Warmup):
    """One field goes in a straight line, batch by batch, from `start` to the value that is configured.

    Beta from 0 to 1 is the warm-up of Sønderby et al., 2016, "Ladder variational autoencoders".

    Attributes:
        field: Name of a number among the objective's fields; one that counts, such as num_samples, is rounded and at
            least 1.
        start: Its value in the first batch.
        epochs: Epochs after which it has the configured one; parts of an epoch are allowed.
    """

    field: str = "beta"
    start: float = 0.0
    epochs: PositiveFloat = 100.0

    @property
    def end(self) -> float:
        """When the line ends."""
        return self.epochs

    def share(self, epoch: float) -> float:
        """Return how much of the way is done, 0 .. 1."""
        return min(1.0, epoch / self.epochs)

    def at(self, objective: Objective, epoch: float) -> Objective:
        """Return the objective on the line."""
        return approach(objective, self.field, self.start, self.share(epoch))

    def check(self, objective: Objective) -> None:
        """Try the values on the line."""
        try_way(objective, self.field, self.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cyclic(Warmup):
    """One field rises from `start` to the value that is configured and stays there, again and again.

    (Fu et al., 2019, "Cyclical annealing schedule: a simple approach to mitigating KL vanishing".)

    Attributes:
        field: Name of a number among the objective's fields; one that counts, such as num_samples, is rounded and at
            least 1.
        start: Its value in the first batch of each cycle.
        epochs: Epochs of all cycles together; then it stays what is configured.
        cycles: How many there are.
        ratio: Share of a cycle in which it rises.
    """

    field: str = "beta"
    start: float = 0.0
    epochs: PositiveFloat = 100.0
    cycles: PositiveInt = 4
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.5

    @property
    def end(self) -> float:
        """When the last cycle ends, or rather its rise."""
        return self.epochs * (self.cycles - 1 + self.ratio) / self.cycles

    def share(self, epoch: float) -> float:
        """Return how much of the way is done, 0 .. 1."""
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
    """Return an objective, one field of which has gone a share of the way from `start` to its own value.

    Raises:
        ValueError: The objective refuses it.
    """
    own = getattr(objective, field)
    if share >= 1.0:
        return objective
    value = start + share * (own - start)
    return dataclasses.replace(objective, **{field: max(1, round(value)) if isinstance(own, int) else value})


def try_way(objective: Objective, field: str, start: float) -> None:
    """Refuse a field that is no number of the objective's, or values on the way that it does not accept.

    Raises:
        ValueError: One line that names the nearest field, or what is wrong with the value.
    """
    kind = type(objective).__name__
    numbers = [
        each.name
        for each in dataclasses.fields(objective)
        # What is told of the data is nobody's to change.
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
