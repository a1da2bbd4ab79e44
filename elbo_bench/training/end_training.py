"""The end of a training: after a number of batches, or when its time is spent."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl

from elbo_bench.errors import RunFailedError
from elbo_bench.training.budget import Limits
from elbo_bench.training.checkpoints import Checkpoints


class EndTraining(pl.Callback):
    """Counts the batches of a training, and ends it at its limits.

    Lightning's own `max_steps` is not used: with it, a resumed run skips batches (Lightning 2.6).

    Args:
        limits: The limits. Batches and seconds before a stop count.
        checkpoints: Its clock counts the seconds.
        interval: With several processes, batches between two looks at the clock. Rank 0's clock decides.
    """

    def __init__(self, limits: Limits, checkpoints: Checkpoints, interval: int = 20) -> None:
        self._limits, self._checkpoints, self._interval = limits, checkpoints, interval
        self.batches = 0
        self.is_time_spent = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"batches": self.batches, "is_time_spent": self.is_time_spent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.batches, self.is_time_spent = state_dict["batches"], state_dict["is_time_spent"]

    @classmethod
    def batches_in(cls, checkpoint: Mapping[str, Any]) -> int:
        """Return how many batches a checkpoint was trained on."""
        return int(checkpoint["callbacks"][cls.__qualname__]["batches"])

    @property
    def is_limit_reached(self) -> bool:
        """Whether the limit of batches is reached."""
        return self._limits.batches is not None and self.batches >= self._limits.batches

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not train a run further that had reached a limit before it was stopped."""
        self._end_if_due(trainer, look=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check that this is the next batch of the training.

        Raises:
            RunFailedError: It is not. A resumed run would train on other data.
        """
        position = getattr(batch, "position", self.batches)  # a module may hand on something else than our `Batch`
        if position != self.batches:
            raise RunFailedError(
                f"the next batch is number {position} of the training, but {self.batches} batches were trained: "
                "the checkpoint does not fit the data"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.batches += 1
        self._end_if_due(trainer, look=trainer.world_size == 1 or self.batches % self._interval == 0)

    def _end_if_due(self, trainer: pl.Trainer, *, look: bool) -> None:
        if self._limits.seconds is not None and look:
            over = trainer.strategy.broadcast(self._checkpoints.elapsed >= self._limits.seconds)
            self.is_time_spent = self.is_time_spent or bool(over)
        if self.is_limit_reached or self.is_time_spent:
            trainer.should_stop = True
