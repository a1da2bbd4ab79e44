"""A loss that is not a number stops the run, with its step named, before anything is saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from torch import Tensor

from elbo_bench.errors import RunFailedError

_NEVER = 2**62


class FiniteLoss(pl.Callback):
    """Remembers on the device the first step whose loss is not finite, and looks at it every `interval` steps.

    Looking at every step would make an accelerator wait for each of them.

    Args:
        last: The checkpoint that an error names as the last good one, if it exists.
        interval: Steps between two looks.
    """

    def __init__(self, last: Path, interval: int = 50) -> None:
        self._last = last
        self._interval = interval
        self._first_bad: Tensor | None = None
        self._step = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note the step, counted from 1."""
        self._step = trainer.global_step + 1

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the loss, without waiting for it."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            now = torch.where(torch.isfinite(loss.detach()), _NEVER, self._step)
            self._first_bad = now if self._first_bad is None else torch.minimum(self._first_bad, now)
        if (batch_idx + 1) % self._interval == 0:
            self.check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look before anything is measured or saved."""
        self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Fail if a loss was not finite, on every rank at once.

        Raises:
            RunFailedError: One was; the line names its step and the checkpoint before it.
        """
        if self._first_bad is None:
            return
        first_bad = self._first_bad.clone()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(first_bad, torch.distributed.ReduceOp.MIN)
        if (step := int(first_bad)) != _NEVER:
            good = self._last if self._last.exists() else "none was saved yet"
            raise RunFailedError(f"the loss is not finite at step {step}; last good checkpoint: {good}")
