"""A training that ends when its seconds are spent, in the midst of an epoch if need be."""

from typing import Any

import lightning.pytorch as pl

from elbo_bench.training.checkpoints import Checkpoints


class StopByClock(pl.Callback):
    """Ends a training after so many seconds, those before a stop counted in.

    Args:
        checkpoints: Knows how long the run has trained, stops and resumptions together.
        seconds: The budget.
        interval: Batches between two looks where ranks must agree; rank 0's clock decides.
    """

    def __init__(self, checkpoints: Checkpoints, seconds: float, interval: int = 20) -> None:
        self._checkpoints, self._seconds, self._interval = checkpoints, seconds, interval
        self._batches = 0
        self.spent = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train no further if a run that is resumed had spent all."""
        self._look(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock."""
        self._batches += 1
        if trainer.world_size == 1 or self._batches % self._interval == 0:
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        over = self._checkpoints.elapsed >= self._seconds
        if trainer.world_size > 1:
            over = bool(trainer.strategy.broadcast(over))
        if over:
            trainer.should_stop = self.spent = True
