"""One training run by Lightning's Trainer, from a module and a data set to a checkpoint."""

import dataclasses
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from elbo_bench.data.batches import TrainingBatches
from elbo_bench.data.dataset import Dataset
from elbo_bench.errors import UsageError
from elbo_bench.training.checkpoints import AtomicCheckpointIO, Checkpoints
from elbo_bench.training.finite_loss import FiniteLoss
from elbo_bench.training.options import TrainerOptions
from elbo_bench.training.show_progress import ShowProgress
from elbo_bench.training.stop_on_signal import StopOnSignal
from elbo_bench.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training ended with.

    Attributes:
        checkpoint: The checkpoint to be scored.
        facts: Epochs, steps, seconds, ... for the record.
        device: Where this rank computes.
        is_global_zero: Whether this process writes the record.
    """

    checkpoint: Path
    facts: dict[str, Any]
    device: torch.device
    is_global_zero: bool


class _Data(pl.LightningDataModule):
    """Hands Lightning the batches, cut on the device."""

    def __init__(self, dataset: Dataset, batch_size: int, shuffle: bool, seed: int) -> None:
        super().__init__()
        self._dataset, self._batch_size, self._shuffle, self._seed = dataset, batch_size, shuffle, seed

    def train_dataloader(self) -> TrainingBatches:
        assert self.trainer is not None
        dtype = next(self.trainer.lightning_module.parameters()).dtype
        return TrainingBatches(
            self._dataset.train.to(self.trainer.strategy.root_device, dtype),
            batch_size=self._batch_size,
            shuffle=self._shuffle,
            binarize=self._dataset.binarize,
            seed=self._seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )


def make_trainer(options: TrainerOptions, callbacks: list[pl.Callback] | None = None) -> pl.Trainer:
    """Return Lightning's Trainer, quiet, with checkpoints that are atomic and no sampler of its own.

    Raises:
        UsageError: Lightning refuses the devices, the strategy or the precision.
    """
    quiet()
    try:
        return pl.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            precision=options.precision,
            max_epochs=-1 if options.max_epochs is None else options.max_epochs,
            max_steps=-1 if options.max_steps is None else options.max_steps,
            gradient_clip_val=options.gradient_clip_norm,
            accumulate_grad_batches=options.accumulate_grad_batches,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except Exception as error:  # Lightning's own, and whatever a back end raises
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None


def quiet() -> None:
    """Keep Lightning's advice to itself: none of it is about the numbers."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")


def fit(
    module: pl.LightningModule,
    dataset: Dataset,
    options: TrainerOptions,
    folder: Path,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    resume: bool,
) -> Trained:
    """Train a module, or go on with one whose `last.ckpt` stands in the folder.

    Raises:
        UsageError: Lightning refuses the options; nothing was written.
        RunFailedError: A loss is not finite, or a checkpoint cannot be written.
        StoppedError: A signal stopped the run; it is saved.
    """
    finite_loss = FiniteLoss(folder / "last.ckpt")
    checkpoints = Checkpoints(folder, options.checkpoint_seconds, finite_loss)
    callbacks: list[pl.Callback] = [finite_loss]
    validation: Validation | None = None
    if (every := options.epochs_between_validations) is not None:
        validation = Validation(
            dataset.validation,
            every=every,
            num_samples=options.validation_samples,
            seed=seed,
            checkpoints=checkpoints,
            keep_best=options.checkpoint == "best",
            patience=options.patience,
        )
        callbacks.append(validation)
    trainer = make_trainer(options, [*callbacks, checkpoints, StopOnSignal(checkpoints), ShowProgress()])
    started = time.monotonic()
    trainer.fit(
        module,
        datamodule=_Data(dataset, batch_size, shuffle, seed),
        ckpt_path=checkpoints.last if resume and checkpoints.last.exists() else None,
        weights_only=True,
    )
    scored = checkpoints.best if options.checkpoint == "best" and checkpoints.best.exists() else checkpoints.last
    facts = {
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "batches": trainer.fit_loop.epoch_loop.batch_progress.total.completed,
        "train_seconds": time.monotonic() - started,
        "world_size": trainer.world_size,
        "device": str(trainer.strategy.root_device.type),
        "validation": validation.history if validation is not None else [],
    }
    return Trained(scored, facts, trainer.strategy.root_device, trainer.is_global_zero)
