"""The keys of a training: how long, where, and what is kept."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """How long and where a run trains; `conf/trainer/lightning.yaml` says what each key is for."""

    max_epochs: PositiveInt | None = 100
    max_steps: PositiveInt | None = None
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
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("one of max_epochs and max_steps must be a number")

        if self.validate_every is None and (self.checkpoint == "best" or self.patience is not None):
            raise ValueError("checkpoint=best and patience need validations: validate_every must not be null")

    def epochs(self, batches_per_epoch: int) -> float:
        """Return how many epochs, and parts of one, a training takes at most."""
        limits = [float(self.max_epochs)] if self.max_epochs is not None else []
        if self.max_steps is not None:  # the last step of an epoch may have fewer batches
            whole, rest = divmod(self.max_steps, -(-batches_per_epoch // self.accumulate_grad_batches))
            limits.append(whole + rest * self.accumulate_grad_batches / batches_per_epoch)
        return min(limits)

    def epochs_between_validations(self, batches_per_epoch: int) -> int | None:
        """Return the epochs from one validation to the next, None for never.

        `auto` is each one where a validation decides something, and else about twenty over the run.
        """
        if self.validate_every != "auto":
            return self.validate_every
        if self.checkpoint == "best" or self.patience is not None:
            return 1
        epochs = [self.max_epochs] if self.max_epochs is not None else []
        if self.max_steps is not None:
            epochs.append(-(-self.max_steps * self.accumulate_grad_batches // batches_per_epoch))
        return max(1, min(epochs) // 20)
