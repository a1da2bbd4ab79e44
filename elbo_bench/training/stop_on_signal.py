"""SIGTERM and Ctrl-C stop a training after it has saved. The same command resumes it."""

import signal
import threading
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from elbo_bench.errors import StoppedError
from elbo_bench.training.checkpoints import Checkpoints

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_SIGNAL = 2.0
"""Seconds within which a second signal counts as the first one: a process group and its leader both receive it."""


class StopOnSignal(pl.Callback):
    """Stops a training between two units of work, if any rank received a signal.

    A unit of work is an optimiser step. The last batch of an epoch, its validation and its checkpoints are one unit:
    a run that stopped between them would skip that validation. The signal handler itself only sets a flag.

    Args:
        checkpoints: Saves the run.
        interval: With several processes, batches between two looks at the flag. One process looks at every batch.
    """

    def __init__(self, checkpoints: Checkpoints, interval: int = 20) -> None:
        self._checkpoints, self._interval = checkpoints, interval
        self._number: int | None = None
        self._received_at = 0.0
        self._batches = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's signal handlers: these end with exit code 0 and save no checkpoint."""
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._receive) for number in numbers}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._number is None:
            self._number, self._received_at = number, now
        elif now - self._received_at > _SAME_SIGNAL and callable(self._previous.get(number)):
            self._previous[number](number, frame)  # a second signal: do not wait

    def on_train_batch_end(  # noqa: PLR0917 - Lightning's signature
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after an optimiser step within an epoch.

        Raises:
            StoppedError: A signal was received, and the run is saved.
        """
        self._batches += 1
        is_last = trainer.should_stop or batch_idx + 1 >= trainer.num_training_batches
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if is_step and not is_last and (trainer.world_size == 1 or self._batches >= self._interval):
            self._batches = 0
            self._stop_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after an epoch, its validation and its checkpoints.

        Raises:
            StoppedError: A signal was received, and the run is saved.
        """
        self._stop_if_signalled(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after the last checkpoint, before the evaluation.

        Raises:
            StoppedError: A signal was received, and the run is saved.
        """
        self._stop_if_signalled(trainer)

    def _stop_if_signalled(self, trainer: pl.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._number is not None, all=False):
            self._checkpoints.save(trainer, self._checkpoints.last)
            raise StoppedError(
                f"stopped by a signal at step {trainer.global_step} and saved {self._checkpoints.last}; "
                "the same command resumes"
            )

    def raise_again(self) -> None:
        """Raise a signal that came after the last look, for the handler that was there before the training."""
        if self._number is not None:
            signal.raise_signal(self._number)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self.teardown(trainer, pl_module, "fit")
