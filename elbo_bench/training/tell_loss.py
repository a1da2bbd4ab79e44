"""The loss, told now and then while a run goes on."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor


class TellLoss(pl.Callback):
    """Tells step, epoch, loss, learning rate and batch at the first batch and then by time, not by step.

    Reading the loss makes an accelerator wait, and every message costs; so neither may follow the speed of training.

    Args:
        tell: Called with the numbers, on rank 0.
        seconds: Time between two of them.
    """

    def __init__(self, tell: Callable[[Mapping[str, Any]], None], seconds: float = 1.0) -> None:
        self._tell = tell
        self._seconds = seconds
        self._told = -float("inf")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tell, if it is time."""
        now = time.monotonic()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not trainer.is_global_zero or not isinstance(loss, Tensor) or now - self._told < self._seconds:
            return
        self._told = now
        rate, step = trainer.optimizers[0].param_groups[0]["lr"], trainer.global_step
        told = {"epoch": trainer.current_epoch, "step": step, "loss": float(loss), "lr": rate, "batch": batch}
        self._tell(told)
