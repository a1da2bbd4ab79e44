"""The validation bound: chooses the best checkpoint and stops a run that no longer improves."""

import math
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from elbo_bench.evaluation.evaluate import evaluate
from elbo_bench.training.checkpoints import Checkpoints


class Validation(pl.Callback):
    """Measures L_K on the validation split by the evaluator that scores the test split, whatever was trained with.

    A run trained with beta = 4 is thus chosen by a bound on log p(x) too. The measurement draws its own numbers and
    changes nothing that training draws.

    Args:
        x: Validation observations.
        every: Epochs between two measurements.
        num_samples: K.
        seed: The run's seed.
        checkpoints: Where the best one is kept.
        keep_best: Whether it is.
        patience: Stop after so many measurements without a better one; None is never.
    """

    def __init__(
        self,
        x: Tensor,
        *,
        every: int,
        num_samples: int,
        seed: int,
        checkpoints: Checkpoints,
        keep_best: bool,
        patience: int | None,
    ) -> None:
        self._x, self._every, self._num_samples, self._seed = x, every, num_samples, seed
        self._checkpoints, self._keep_best, self._patience = checkpoints, keep_best, patience
        self.best = -math.inf
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.history = state_dict["best"], list(state_dict["history"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, keep the best, stop if there is no better one for long."""
        epoch = trainer.current_epoch + 1
        if epoch % self._every:
            return
        measured = evaluate(pl_module.model, self._x, num_samples=self._num_samples, seed=self._seed)  # type: ignore[arg-type]
        bound = measured.metrics["log_px"]["value"]
        self.history.append({"epoch": epoch, "step": trainer.global_step, "bound": bound})
        if bound > self.best:
            self.best = bound
            if self._keep_best:
                self._checkpoints.save(trainer, self._checkpoints.best)
        best_at = max(range(len(self.history)), key=lambda index: self.history[index]["bound"])
        if self._patience is not None and len(self.history) - 1 - best_at >= self._patience:
            trainer.should_stop = True
