"""How long a training is: by epochs, steps, decoded latents or the clock, whichever is reached first."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.typed import check_fields

EndedBy = Literal["epochs", "steps", "decoder_evaluations", "seconds", "patience"]
"""What ended a training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a training may spend; None is no limit.

    Attributes:
        epochs: Passes over the training examples.
        steps: Optimiser steps.
        decoder_evaluations: Latents that the objective decodes: with K samples a step decodes K for each example, so
            that one budget gives K = 50 a fiftieth of the steps of K = 1.
        seconds: Wall-clock of training with its validations, all stops and resumptions together.
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    decoder_evaluations: Annotated[float, Field(ge=1, le=1e18)] | None = None
    seconds: PositiveFloat | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, field.name) is not None for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a training ends at, in Lightning's terms.

    Attributes:
        epochs: Whole epochs, None for no limit.
        steps: Optimiser steps, None for no limit.
        seconds: Wall-clock, None for no limit.
        steps_by: Where the limit of steps comes from.
    """

    epochs: int | None
    steps: int | None
    seconds: float | None
    steps_by: EndedBy = "steps"

    def batches(self, counted: DecoderEvaluations) -> float:
        """Return how many batches a training takes at most; infinity if the clock alone ends it."""
        by_epochs = math.inf if self.epochs is None else self.epochs * counted.batches_per_epoch
        return float(min(by_epochs, math.inf if self.steps is None else counted.batches_of(self.steps)))


def limits(
    max_epochs: int | Literal["auto"] | None, max_steps: int | None, budget: Budget, counted: DecoderEvaluations
) -> Limits:
    """Return what a training ends at; `auto` is 100 epochs, unless something else says how long.

    Raises:
        ValueError: The budget of decoder evaluations does not pay for a step.
    """
    others = max_steps is not None or bool(budget)
    epochs = [(None if others else 100) if max_epochs == "auto" else max_epochs, budget.epochs]
    steps: list[tuple[int, EndedBy]] = [(each, "steps") for each in (max_steps, budget.steps) if each is not None]
    if budget.decoder_evaluations is not None:
        steps.append((counted.steps_within(budget.decoder_evaluations), "decoder_evaluations"))
    least = min((each for each in epochs if each is not None), default=None)
    if not steps:
        return Limits(least, None, budget.seconds)
    return Limits(least, *min(steps)[:1], budget.seconds, min(steps)[1])
