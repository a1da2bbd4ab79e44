"""Checkpoints that survive a full disk, a kill and a NaN."""

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.training.finite_loss import FiniteLoss

_RUN = "elbo_bench_run"
"""Key of a checkpoint that names the run which wrote it."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside the target, flushes it, reads it back, and only then replaces the target.

    Lightning's own stages in `$TMPDIR` and moves across file systems, where a full disk destroys the previous file.

    Args:
        run_id: Name of the run. It is written into each checkpoint, and a checkpoint of another run is refused.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            RunFailedError: It could not be written; the file that was there before stands.
        """
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                torch.save({**checkpoint, _RUN: self._run_id}, file)
                file.flush()
                os.fsync(file.fileno())
            torch.load(beside, map_location="cpu", weights_only=True)
            beside.replace(target)
        except (OSError, RuntimeError) as error:
            beside.unlink(missing_ok=True)
            raise RunFailedError(f"checkpoint {target} could not be written: {error}") from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint of this run, tensors and plain values only."""
        return load_checkpoint(Path(path), self._run_id, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, run_id: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a checkpoint of a run. Code that the file may hold is not run.

    Raises:
        UsageError: The file is missing or damaged, holds more than tensors and plain values, or is of another run.
    """
    try:
        loaded = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"checkpoint {path} is missing") from None
    except Exception as error:  # torch raises whatever its unpickler meets
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"checkpoint {path} cannot be read: {what}") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), dict):
        raise UsageError(f"checkpoint {path} is not a checkpoint: it holds no state_dict")
    if loaded.get(_RUN) != run_id:
        written_by = f"the run {loaded[_RUN]}" if isinstance(loaded.get(_RUN), str) else "a run that it does not name"
        raise UsageError(f"checkpoint {path} was written by {written_by}, not by {run_id}: it does not belong here")
    return loaded


class Checkpoints(pl.Callback):
    """Saves `last.ckpt` from time to time and at the end. A model with parameters that are not finite is not saved.

    Args:
        folder: The folder of checkpoints.
        seconds: Minimum seconds between two saves of `last.ckpt`. Saving `best.ckpt` does not count.
        finite_loss: Checks, before anything is saved, that every loss so far is finite.
    """

    def __init__(self, folder: Path, seconds: float, finite_loss: FiniteLoss) -> None:
        self.folder = folder
        self._seconds = seconds
        self._finite_loss = finite_loss
        self._saved_at = self._started = time.monotonic()
        self._seconds_before = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a stop counted in."""
        return self._seconds_before + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._seconds_before, self._started = state_dict["elapsed"], time.monotonic()

    @property
    def last(self) -> Path:
        """The checkpoint that a run resumes from."""
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        """The checkpoint with the highest validation bound."""
        return self.folder / "best.ckpt"

    def save(self, trainer: pl.Trainer, path: Path) -> None:
        """Save on every rank's behalf.

        Raises:
            RunFailedError: A loss or a parameter is not finite.
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
        """Save if the last time is long ago; rank 0's clock decides."""
        if trainer.strategy.broadcast(time.monotonic() - self._saved_at >= self._seconds):
            self.save(trainer, self.last)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what training ended with."""
        self.save(trainer, self.last)
