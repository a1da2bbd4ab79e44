"""Checkpoints that survive a full disk, a killed process and a NaN."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.files import atomic_write
from elbo_bench.training.finite_loss import FiniteLoss

_RUN = "elbo_bench_run"
"""Key of a checkpoint that holds the id of the run that wrote it."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint atomically, and reads it back before it replaces the previous one.

    Lightning writes to `$TMPDIR` and moves across file systems, where a full disk destroys the previous file.

    Args:
        run_id: The run's id. It is written into each checkpoint, and a checkpoint of another run is refused.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            RunFailedError: The checkpoint could not be written. The previous file is unchanged.
        """
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as new:
                torch.save({**checkpoint, _RUN: self._run_id}, new)
                torch.load(new, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            raise RunFailedError(f"checkpoint {target} could not be written: {error}") from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint of this run. It holds only tensors and plain values."""
        return load_checkpoint(Path(path), self._run_id, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, run_id: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a checkpoint of a run. Code inside the file is never executed.

    Raises:
        UsageError: The file is missing, damaged, holds more than tensors and plain values, or is of another run.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"checkpoint {path} is missing") from None
    except Exception as error:  # torch raises whatever its unpickler meets
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"checkpoint {path} cannot be read: {reason}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise UsageError(f"checkpoint {path} is not a checkpoint: it has no state_dict")
    if loaded.get(_RUN) != run_id:
        author = f"the run {loaded[_RUN]}" if isinstance(loaded.get(_RUN), str) else "an unknown run"
        raise UsageError(f"checkpoint {path} was written by {author}, not by {run_id}")
    return loaded


class Checkpoints(pl.Callback):
    """Saves `last.ckpt` regularly and at the end. A model whose parameters are not finite is not saved.

    Args:
        folder: The folder of checkpoints.
        seconds: Minimum seconds between two saves of `last.ckpt`. Saving `best.ckpt` does not count.
        finite_loss: Checks before each save that every loss so far is finite.
    """

    def __init__(self, folder: Path, seconds: float, finite_loss: FiniteLoss) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self._seconds = seconds
        self._finite_loss = finite_loss
        self._saved_at = self._started = time.monotonic()
        self._seconds_before = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training, including those before a stop."""
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of training, for a resumed run."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the clock of a checkpoint."""
        self._seconds_before, self._started = state_dict["elapsed"], time.monotonic()

    def save(self, trainer: pl.Trainer, path: Path) -> None:
        """Save a checkpoint. Every rank must call this.

        Raises:
            RunFailedError: A loss or a parameter is not finite, or the checkpoint could not be written.
        """
        self._finite_loss.check(trainer)
        for name, parameter in trainer.lightning_module.named_parameters():
            if not torch.isfinite(parameter).all():
                good = self.last if self.last.exists() else "none was saved yet"
                raise RunFailedError(
                    f"parameter {name} is not finite after step {trainer.global_step}; last good checkpoint: {good}"
                )
        trainer.save_checkpoint(path)
        if path == self.last:
            self._saved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if the previous save is old enough. Rank 0's clock decides."""
        if trainer.strategy.broadcast(time.monotonic() - self._saved_at >= self._seconds):
            self.save(trainer, self.last)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the final state."""
        self.save(trainer, self.last)
