"""The keys of a training: how long, where, and what is kept."""

import dataclasses
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

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
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    gradient_clip_norm: PositiveFloat | None = None
    accumulate_grad_batches: PositiveInt = 1
    checkpoint: Literal["last", "best"] = "last"
    validate_every: PositiveInt | None = None
    validation_samples: PositiveInt = 16
    patience: PositiveInt | None = None
    checkpoint_seconds: NonNegativeFloat = 60.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_epochs is None and self.max_steps is None:
            raise ValueError("one of max_epochs and max_steps must be a number")

    @property
    def epochs_between_validations(self) -> int | None:
        """Epochs from one validation bound to the next; None is never."""
        if self.validate_every is None and (self.checkpoint == "best" or self.patience is not None):
            return 1
        return self.validate_every
