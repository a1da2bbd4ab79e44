"""The progress of a training, by epochs and loss."""

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from elbo_bench.progress import ProgressLine


class ShowProgress(pl.Callback):
    """Shows batches done and the last loss, which for our own module is minus the bound, in nats."""

    def __init__(self) -> None:
        self._line: ProgressLine | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        limits = [
            trainer.max_epochs * trainer.num_training_batches if trainer.max_epochs not in (None, -1) else math.inf,
            trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps != -1 else math.inf,
        ]
        total = None if math.isinf(min(limits)) else int(min(limits))  # unknown where the clock alone ends a training
        self._line = ProgressLine("training", total, enabled=trainer.is_global_zero).__enter__()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Show how far it is; the loss is read only when it is shown."""
        if self._line is None or not self._line.due():
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        note = f"epoch {trainer.current_epoch + 1}"
        if isinstance(loss, Tensor):
            note += f", loss {float(loss):.2f}"
        self._line.update(trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1, note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End well."""
        if self._line is not None:
            done = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
            self._line.update(done, f"epoch {trainer.current_epoch}")
            self._line.__exit__(None, None, None)
            self._line = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End, leaving the terminal as it was."""
        if self._line is not None:
            self._line.__exit__(type(exception), exception, None)
            self._line = None
