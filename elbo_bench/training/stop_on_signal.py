"""SIGTERM and Ctrl-C end a training after it has saved, so that the same command resumes it."""

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
"""Seconds in which a second signal is the first one again: a group is signalled, and its leader passes it on."""


class StopOnSignal(pl.Callback):
    """Lets a signal set a flag only; the flag is looked at between two batches, by all ranks together.

    Args:
        checkpoints: Where the run is saved.
        interval: Batches between two looks where ranks must agree; alone, every batch.
    """

    def __init__(self, checkpoints: Checkpoints, interval: int = 20) -> None:
        self._checkpoints = checkpoints
        self._interval = interval
        self._received: float | None = None  # when
        self._batches = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over from Lightning, whose handler ends with exit code 0 and no checkpoint."""
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in heard}

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received = now
        elif now - self._received > _SAME_SIGNAL and callable(self._previous.get(number)):
            self._previous[number](number, frame)  # the user means it: do not wait

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop if a signal came, on whichever rank.

        Raises:
            StoppedError: It did; the run is saved.
        """
        stop = self._received is not None
        if trainer.world_size > 1:
            self._batches += 1  # an epoch may be shorter than the interval
            if self._batches % self._interval:
                return
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self._checkpoints.save(trainer, self._checkpoints.last)
            raise StoppedError(
                f"stopped by a signal at step {trainer.global_step} and saved {self._checkpoints.last}; "
                "the same command resumes"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
