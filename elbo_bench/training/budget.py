"""Budgets: how long a training may be, in epochs, steps, decoded latents or seconds."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from elbo_bench.config.typed import check_fields

EndedBy = Literal["epochs", "steps", "decoder_evaluations", "seconds", "patience"]
"""The limit that ended a training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What a training may spend. None is no limit.

    Attributes:
        epochs: Passes over the training examples.
        steps: Optimiser steps.
        decoder_evaluations: Latents that the objective decodes. With K samples, a step decodes K latents for each
            example. So K = 50 gets a fiftieth of the steps of K = 1.
        seconds: Wall-clock seconds of training and its validations, summed over all stops and resumptions.
    """

    epochs: PositiveInt | None = None
    steps: PositiveInt | None = None
    decoder_evaluations: Annotated[float, Field(ge=1, le=1e18)] | None = None
    seconds: PositiveFloat | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def __bool__(self) -> bool:
        """Return whether anything is limited."""
        return any(value is not None for value in vars(self).values())


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a training ends: at the limit that is reached first.

    Attributes:
        batches: Global batches. None is no limit.
        batches_by: The key that the limit of batches comes from.
        seconds: Wall-clock seconds. None is no limit.
        epochs: The same as `batches`, in epochs. Infinity if only the clock ends the training.
    """

    batches: int | None
    batches_by: EndedBy
    seconds: float | None
    epochs: float = math.inf
