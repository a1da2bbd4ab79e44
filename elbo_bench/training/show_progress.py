"""The progress of a training, by epochs and loss."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from elbo_bench.progress import ProgressLine
from elbo_bench.training.end_training import EndTraining


class ShowProgress(pl.Callback):
    """Shows the number of batches and the last loss. For our own module the loss is minus the bound, in nats.

    Args:
        ending: Counts the batches.
        batches: The most batches that the training takes. None if only the clock ends it.
    """

    def __init__(self, ending: EndTraining, batches: int | None) -> None:
        self._ending, self._batches = ending, batches
        self._line: ProgressLine | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._line = ProgressLine("training", self._batches, enabled=trainer.is_global_zero).__enter__()

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
        self._line.update(self._ending.batches, note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End well."""
        if self._line is not None:
            self._line.update(self._ending.batches, f"epoch {trainer.current_epoch}")
            self._line.__exit__(None, None, None)
            self._line = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End, leaving the terminal as it was."""
        if self._line is not None:
            self._line.__exit__(type(exception), exception, None)
            self._line = None
