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
    """What ends a training. The limit that is reached first counts.

    Attributes:
        batches: Global batches; None is no limit.
        batches_by: Key that the limit of batches comes from.
        seconds: Wall-clock seconds; None is no limit.
    """

    batches: int | None
    batches_by: EndedBy
    seconds: float | None

    def epochs(self, counted: DecoderEvaluations) -> float:
        """Return the most epochs that a training takes; infinity if the clock alone ends it."""
        return math.inf if self.batches is None else self.batches / counted.batches_per_epoch


def limits(
    max_epochs: int | Literal["auto"] | None, max_steps: int | None, budget: Budget, counted: DecoderEvaluations
) -> Limits:
    """Return what ends a training. `max_epochs="auto"` is 100 epochs, or no limit if another limit is given.

    Raises:
        ValueError: The budget of decoder evaluations does not pay for one step.
    """
    if max_epochs == "auto":
        max_epochs = None if max_steps is not None or budget else 100
    found: list[tuple[int, EndedBy]] = []
    # Of equal limits the first one in this list is reported.
    if budget.decoder_evaluations is not None:
        steps = counted.steps_within(budget.decoder_evaluations)
        found.append((counted.batches_of(steps), "decoder_evaluations"))
    found += [(counted.batches_of(steps), "steps") for steps in (max_steps, budget.steps) if steps is not None]
    found += [
        (epochs * counted.batches_per_epoch, "epochs") for epochs in (max_epochs, budget.epochs) if epochs is not None
    ]
    if not found:
        return Limits(None, "epochs", budget.seconds)
    return Limits(*min(found, key=lambda limit: limit[0]), budget.seconds)
