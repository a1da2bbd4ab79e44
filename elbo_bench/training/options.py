"""The keys of a training: how long, where, and what is kept."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from elbo_bench.errors import UsageError
from elbo_bench.training.budget import Budget, Limits, limits
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long and where a run trains; `conf/trainer/lightning.yaml` says what each key is for."""

    max_epochs: PositiveInt | Literal["auto"] | None = "auto"
    max_steps: PositiveInt | None = None
    budget: Budget = dataclasses.field(default_factory=Budget)
    accelerator: str = "auto"
    devices: PositiveInt | str | list[int] = "auto"
    num_nodes: PositiveInt = 1
    strategy: str = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    gradient_clip_norm: PositiveFloat | None = None
    accumulate_grad_batches: PositiveInt = 1
    checkpoint: Literal["last", "best"] = "last"
    validate_every: PositiveInt | Literal["auto"] | None = "auto"
    validation_samples: Annotated[int, Field(ge=2)] = 64
    validation_examples: PositiveInt | None = 250
    patience: PositiveInt | None = None
    checkpoint_seconds: NonNegativeFloat = 60.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_epochs is None and self.max_steps is None and not self.budget:
            raise ValueError("one of max_epochs, max_steps and those of budget must be a number")

        if self.validate_every is None and (self.checkpoint == "best" or self.patience is not None):
            raise ValueError("checkpoint=best and patience need validations: validate_every must not be null")

    def limits(self, counted: DecoderEvaluations) -> Limits:
        """Return what training ends at.

        Raises:
            UsageError: The budget does not pay for a step.
        """
        try:
            return limits(self.max_epochs, self.max_steps, self.budget, counted)
        except ValueError as error:
            raise UsageError(f"trainer.{error}") from None

    def validated_every(self, epochs: float) -> int | None:
        """Return the number of epochs between two validations; None is never.

        `auto` is 1 if a validation decides something, or if only the clock limits the training. Otherwise it gives
        about twenty validations.

        Args:
            epochs: The most epochs that the training takes.
        """
        if self.validate_every != "auto":
            return self.validate_every
        if self.checkpoint == "best" or self.patience is not None or math.isinf(epochs):
            return 1
        return max(1, math.ceil(epochs) // 20)
