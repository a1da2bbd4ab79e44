"""Tightness over training: the evaluator on validation examples, which also chooses a checkpoint and when to stop."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import evaluate
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.training.checkpoints import Checkpoints


class Validation(pl.Callback):
    """Measures log p(x), every bound and every gap by the evaluator that scores the test split.

    Whatever a run is trained with, L_K on the validation examples chooses its checkpoint. The measurement draws its
    own numbers and changes nothing that training draws.

    Args:
        x: Validation observations.
        every: Epochs between two measurements.
        seconds_apart: And so much time at least, where nothing but the clock ends a training; rank 0's decides.
        num_samples: K; more if a bound of `bounds` does not fit twice into it.
        seed: The run's seed.
        bounds: Further bounds, the one trained with among them.
        checkpoints: Where the best one is kept.
        keep_best: Whether it is.
        patience: Stop after so many measurements without a better one; None is never.
        tell: Called with each measurement.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        every: int,
        seconds_apart: float = 0.0,
        num_samples: int,
        seed: int,
        bounds: Mapping[str, Bound],
        checkpoints: Checkpoints,
        keep_best: bool,
        patience: int | None,
        tell: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._x, self._every, self._seed, self._bounds = x, every, seed, dict(bounds)
        self._num_samples = max([num_samples, *(2 * bound.samples_required for bound in bounds.values())])
        self._checkpoints, self._keep_best, self._patience = checkpoints, keep_best, patience
        self._tell = tell
        self._seconds_apart, self._measured_at = seconds_apart, time.monotonic()
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, and tell again what was measured before it."""
        self.history = list(state_dict["history"])
        for entry in self.history:
            self._tell(entry)

    @property
    def gave_up(self) -> bool:
        """Whether the last `patience` validations were no better than the best one before them."""
        bounds = [entry["metrics"]["log_px"] for entry in self.history]
        return (
            self._patience is not None
            and bool(bounds)
            and len(bounds) - 1 - bounds.index(max(bounds)) >= self._patience
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not train a run further that had given up before it was stopped."""
        trainer.should_stop = trainer.should_stop or self.gave_up

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, keep the best, stop if there is no better one for long."""
        epoch = trainer.current_epoch + 1
        if epoch % self._every or not self._is_time(trainer):
            return
        try:
            measured = evaluate(
                pl_module.model,  # type: ignore[arg-type]
                self._x,
                num_samples=self._num_samples,
                seed=self._seed,
                bounds=self._bounds,
                proposal="encoder",  # cheap, and the same kind of number at every measurement
                pilot_share=0.0,
                truth="importance",
            )
        except RunFailedError as error:
            raise RunFailedError(f"validation after step {trainer.global_step}: {error}") from None
        best_before = max((entry["metrics"]["log_px"] for entry in self.history), default=-math.inf)
        metrics = {name: metric["value"] for name, metric in measured.metrics.items()}
        self.history.append({"epoch": epoch, "step": trainer.global_step, "metrics": metrics})
        self._tell(self.history[-1])
        if self._keep_best and metrics["log_px"] > best_before:
            self._checkpoints.save(trainer, self._checkpoints.best)
        trainer.should_stop = trainer.should_stop or self.gave_up

    def _is_time(self, trainer: pl.Trainer) -> bool:
        if not self._seconds_apart:
            return True
        now = time.monotonic()
        due: bool = trainer.strategy.broadcast(now - self._measured_at >= self._seconds_apart)
        if due:
            self._measured_at = now
        return due
