"""Shows the progress of a training: batches, epoch and loss."""

from typing import Any

import lightning.pytorch as pl

from elbo_bench.progress import ProgressLine
from elbo_bench.training.end_training import EndTraining
from elbo_bench.training.finite_loss import loss_of


class ShowProgress(pl.Callback):
    """Shows the number of batches and the last loss. For `BoundModule` the loss is minus the bound, in nats.

    Args:
        ending: Counts the batches.
        batches: The most batches that the training takes. None if only the clock ends it.
    """

    def __init__(self, ending: EndTraining, batches: int | None) -> None:
        self._ending, self._batches = ending, batches
        self._line: ProgressLine | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the progress line."""
        self._line = ProgressLine("training", self._batches, enabled=trainer.is_global_zero).__enter__()

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the line. The loss is read only when it is shown."""
        if self._line is not None and self._line.due():
            loss = loss_of(outputs)
            note = "" if loss is None else f", loss {float(loss):.2f}"
            self._line.update(self._ending.batches, f"epoch {trainer.current_epoch + 1}{note}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the final state, and close the line."""
        if self._line is not None:
            self._line.update(self._ending.batches, f"epoch {trainer.current_epoch}")
            self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the line, so that the terminal is restored."""
        self._close(exception)

    def _close(self, exception: BaseException | None = None) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.__exit__(None if exception is None else type(exception), exception, None)
