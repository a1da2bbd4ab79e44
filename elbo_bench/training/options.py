"""The keys of a training: how long it is, where it runs, and what it keeps."""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from elbo_bench.config.typed import check_fields
from elbo_bench.errors import UsageError
from elbo_bench.training.budget import Budget, EndedBy, Limits
from elbo_bench.training.decoder_evaluations import DecoderEvaluations


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """The keys of a training. `conf/trainer/lightning.yaml` explains each of them."""

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
            raise ValueError("one of max_epochs, max_steps and the keys of budget must be a number")
        if self.validate_every is None and (self.checkpoint == "best" or self.patience is not None):
            raise ValueError("checkpoint=best and patience need validations: validate_every must not be null")

    def limits(self, decoded: DecoderEvaluations) -> Limits:
        """Return when a training ends. `max_epochs="auto"` is 100 epochs, or no limit if another limit is given.

        Raises:
            UsageError: The budget of decoder evaluations is less than one step.
        """
        max_epochs = self.max_epochs
        if max_epochs == "auto":
            max_epochs = None if self.max_steps is not None or self.budget else 100
        budget = self.budget.decoder_evaluations
        try:
            within_budget = None if budget is None else decoded.steps_within(budget)
        except ValueError as error:
            raise UsageError(f"trainer.{error}") from None
        # Of equal limits the first one in this list is reported.
        steps: list[tuple[int | None, EndedBy]] = [(within_budget, "decoder_evaluations")]
        steps += [(self.max_steps, "steps"), (self.budget.steps, "steps")]
        found = [(decoded.batches_of(number), key) for number, key in steps if number is not None]
        per_epoch, epochs = decoded.batches_per_epoch, (max_epochs, self.budget.epochs)
        found += [(number * per_epoch, "epochs") for number in epochs if number is not None]
        if not found:
            return Limits(None, "epochs", self.budget.seconds)
        batches, key = min(found, key=lambda limit: limit[0])
        return Limits(batches, key, self.budget.seconds, batches / per_epoch)

    def validation_interval(self, limits: Limits) -> tuple[int | None, float]:
        """Return the number of epochs, and the minimum seconds, between two validations. None epochs is never.

        `auto` is 1 epoch if a validation decides something, or if only the clock limits the training. Otherwise it
        gives about twenty validations. With a wall-clock budget, the seconds give at most twenty.
        """
        if self.validate_every != "auto":
            return self.validate_every, 0.0
        seconds = limits.seconds / 20 if limits.seconds else 0.0
        if self.checkpoint == "best" or self.patience is not None or math.isinf(limits.epochs):
            return 1, seconds
        return max(1, math.ceil(limits.epochs) // 20), seconds
