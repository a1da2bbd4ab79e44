"""Ends a training after a number of batches, or when its time is spent."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from elbo_bench.errors import RunFailedError
from elbo_bench.training.budget import EndedBy, Limits
from elbo_bench.training.checkpoints import Checkpoints


class EndTraining(pl.Callback):
    """Counts the batches of a training, and ends it at its limits.

    Lightning's own `max_steps` is not used: with it, a resumed run skips batches (Lightning 2.6).

    Args:
        limits: The limits. Batches and seconds before a stop count.
        checkpoints: The callback whose clock counts the seconds.
        interval: With several processes, batches between two looks at the clock. Rank 0's clock decides.
    """

    def __init__(self, limits: Limits, checkpoints: Checkpoints, interval: int = 20) -> None:
        self._limits, self._checkpoints, self._interval = limits, checkpoints, interval
        self.batches = 0
        self._is_time_spent = False

    def state_dict(self) -> dict[str, Any]:
        """Return the batches that were trained on and whether the time is spent, for a resumed run."""
        return {"batches": self.batches, "is_time_spent": self._is_time_spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the count of a checkpoint."""
        self.batches, self._is_time_spent = state_dict["batches"], state_dict["is_time_spent"]

    @classmethod
    def batches_in(cls, checkpoint: Mapping[str, Any]) -> int:
        """Return how many batches a checkpoint was trained on."""
        return int(checkpoint["callbacks"][cls.__qualname__]["batches"])

    @property
    def ended_by(self) -> EndedBy:
        """The limit that ended the training, if no callback ended it earlier."""
        return "seconds" if self._is_time_spent else self._limits.batches_by

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if the run had reached a limit before it was stopped."""
        self._end_if_due(trainer, look=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check that this is the next batch of the training.

        Raises:
            RunFailedError: Another batch came. A resumed run would train on other data.
        """
        position = getattr(batch, "position", self.batches)  # a user's module may use batches of its own
        if position != self.batches:
            raise RunFailedError(
                f"the next batch is number {position} of the training, but {self.batches} batches were trained: "
                "the checkpoint does not fit the data"
            )

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and end the training if a limit is reached."""
        self.batches += 1
        self._end_if_due(trainer, look=trainer.world_size == 1 or self.batches % self._interval == 0)

    def _end_if_due(self, trainer: pl.Trainer, *, look: bool) -> None:
        if self._limits.seconds is not None and look:
            over = trainer.strategy.broadcast(self._checkpoints.elapsed >= self._limits.seconds)
            self._is_time_spent = self._is_time_spent or bool(over)
        if self._is_time_spent or (self._limits.batches is not None and self.batches >= self._limits.batches):
            trainer.should_stop = True
