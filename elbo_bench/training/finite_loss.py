"""A loss that is NaN or infinite ends the run before anything is saved. The error names the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from torch import Tensor

from elbo_bench.errors import RunFailedError

_NEVER = 2**62


def loss_of(outputs: Tensor | Mapping[str, Any] | None) -> Tensor | None:
    """Return the loss in what a training step returned, or None."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss if isinstance(loss, Tensor) else None


class FiniteLoss(pl.Callback):
    """Keeps, on the device, the first step whose loss is not finite, and reads it every `interval` batches.

    Reading it at every step would make an accelerator wait for each step.

    Args:
        last: The checkpoint that an error names as the last good one, if it exists.
        interval: Batches between two reads.
    """

    def __init__(self, last: Path, interval: int = 50) -> None:
        self._last = last
        self._interval = interval
        self._first_bad: Tensor | None = None
        self._step = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Store the number of the step, counted from 1."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the loss with infinity on the device, without waiting for it."""
        if (loss := loss_of(outputs)) is not None:
            step = torch.where(torch.isfinite(loss.detach()), _NEVER, self._step)
            self._first_bad = step if self._first_bad is None else torch.minimum(self._first_bad, step)
        if (batch_idx + 1) % self._interval == 0:
            self.check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check before the epoch's validation and checkpoints."""
        self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Raise on every rank if any rank had a loss that is not finite.

        Raises:
            RunFailedError: A loss is not finite. The line names its step and the last good checkpoint.
        """
        if self._first_bad is None:
            return
        first_bad = self._first_bad.clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(first_bad, torch.distributed.ReduceOp.MIN)
        if (step := int(first_bad)) != _NEVER:
            good = self._last if self._last.exists() else "none was saved yet"
            raise RunFailedError(f"the loss is not finite at step {step}; last good checkpoint: {good}")
