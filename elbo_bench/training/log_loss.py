"""Logs the loss of a training regularly, by time."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl

from elbo_bench.training.finite_loss import loss_of
from elbo_bench.training.module import BoundModule

Log = Callable[[Mapping[str, Any]], None]
"""Takes metrics by name, with the optimiser step under `step`."""


class LogLoss(pl.Callback):
    """Logs step, epoch, learning rate and loss: at the first batch, and then at most once in `seconds`.

    The loss is logged as `train/bound`, with the opposite sign, where it is minus the configured bound. Otherwise it is
    logged as `train/loss`: during a warm-up, and for a user's module. Reading a loss makes an accelerator wait, so the
    callback counts seconds and not steps.

    Args:
        log: Called on rank 0.
        seconds: Minimum seconds between two calls.
    """

    def __init__(self, log: Log, seconds: float = 1.0) -> None:
        self._log = log
        self._seconds = seconds
        self._logged_at = -float("inf")

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log if enough seconds have passed."""
        now, loss = time.monotonic(), loss_of(outputs)
        if not trainer.is_global_zero or loss is None or now - self._logged_at < self._seconds:
            return
        self._logged_at = now
        is_bound = isinstance(pl_module, BoundModule) and pl_module.ascended(batch.epoch) == pl_module.objective
        self._log(
            {
                "step": trainer.global_step,
                "train/epoch": trainer.current_epoch,
                "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
                **({"train/bound": -float(loss)} if is_bound else {"train/loss": float(loss)}),
            }
        )
