"""Evaluates validation examples during training, keeps the best checkpoint, and stops when nothing improves."""

import math
import time
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation import Importance
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.training.budget import Limits
from elbo_bench.training.checkpoints import Checkpoints
from elbo_bench.training.log_loss import Log
from elbo_bench.training.options import TrainerOptions


class Validation(pl.Callback):
    """Evaluates log p(x), every bound and every gap on validation examples, as the test split is evaluated.

    L_K on the validation examples chooses the checkpoint, whatever a run is trained with. A validation has random
    numbers of its own and changes nothing that training draws.

    Args:
        x: Validation examples, `[N, *data]`.
        request: The seed and the bound that the run is trained with.
        options: When to validate, with how many samples, whether the best checkpoint is kept, and the patience.
        limits: When the training ends.
        checkpoints: Saves the best checkpoint.
        log: Called with each validation.
    """

    def __init__(
        self,
        x: Tensor,
        request: Request,
        options: TrainerOptions,
        limits: Limits,
        *,
        checkpoints: Checkpoints,
        log: Log,
    ) -> None:
        self._x, self._request, self._options = x, request, options
        self._checkpoints, self._log = checkpoints, log
        self._epochs, self._seconds = options.validation_interval(limits)
        self._validated_at = time.monotonic()
        required = request.trained_with.samples_required if request.trained_with is not None else 0
        self._evaluator = Importance(
            num_samples=max(options.validation_samples, 2 * required),
            # The same cheap estimate at every validation.
            proposal="encoder",
            pilot_share=0.0,
            truth="importance",
        )
        self.history: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return all validations so far, for a resumed run."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the validations of a checkpoint, and log them again."""
        self.history = list(state_dict["history"])
        for entry in self.history:
            self._log_entry(entry)

    @property
    def patience_is_over(self) -> bool:
        """Whether the last `patience` validations were no better than the best one before them."""
        bounds = [entry["metrics"]["log_px"] for entry in self.history]
        patience = self._options.patience
        return patience is not None and bool(bounds) and len(bounds) - 1 - bounds.index(max(bounds)) >= patience

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once if the patience was over before the run was stopped."""
        trainer.should_stop = trainer.should_stop or self.patience_is_over

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate, save the best checkpoint, and stop when the patience is over.

        Raises:
            RunFailedError: An estimate is not finite, or the checkpoint could not be written.
        """
        epoch = trainer.current_epoch + 1
        if self._epochs is None or epoch % self._epochs or not self._is_due(trainer):
            return
        try:
            evaluation = self._evaluator.evaluate(pl_module.model, self._x, self._request)  # type: ignore[arg-type]
        except RunFailedError as error:
            raise RunFailedError(f"validation after step {trainer.global_step}: {error}") from None
        best = max((entry["metrics"]["log_px"] for entry in self.history), default=-math.inf)
        metrics = {name: metric["value"] for name, metric in evaluation.metrics.items()}
        self.history.append({"epoch": epoch, "step": trainer.global_step, "metrics": metrics})
        self._log_entry(self.history[-1])
        if self._options.checkpoint == "best" and metrics["log_px"] > best:
            self._checkpoints.save(trainer, self._checkpoints.best)
        trainer.should_stop = trainer.should_stop or self.patience_is_over

    def _log_entry(self, entry: dict[str, Any]) -> None:
        metrics = {f"val/{name}": value for name, value in entry["metrics"].items()}
        self._log({"step": entry["step"], "val/epoch": entry["epoch"], **metrics})

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Return whether enough seconds have passed since the last validation. Rank 0's clock decides."""
        if not self._seconds:
            return True
        now = time.monotonic()
        due: bool = trainer.strategy.broadcast(now - self._validated_at >= self._seconds)
        if due:
            self._validated_at = now
        return due
