"""One training run by Lightning's Trainer, from a module and a data set to a checkpoint."""

import dataclasses
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from elbo_bench.data.batches import TrainingBatches
from elbo_bench.data.dataset import Dataset
from elbo_bench.errors import UsageError
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.training.budget import EndedBy, Limits
from elbo_bench.training.checkpoints import AtomicCheckpointIO, Checkpoints
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.training.end_training import EndTraining
from elbo_bench.training.environment import cluster_environment
from elbo_bench.training.finite_loss import FiniteLoss
from elbo_bench.training.module import BoundModule
from elbo_bench.training.options import TrainerOptions
from elbo_bench.training.same_start import SameStart
from elbo_bench.training.show_progress import ShowProgress
from elbo_bench.training.stop_on_signal import StopOnSignal
from elbo_bench.training.tell_loss import TellLoss
from elbo_bench.training.validation import Validation

Tell = Callable[[Mapping[str, Any]], None]
"""Takes numbers as they are measured."""


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

    def __init__(self, dataset: Dataset, batch_size: int, shuffle: bool, seed: int, whole: bool, workers: int) -> None:
        super().__init__()
        self._dataset, self._batch_size, self._shuffle, self._seed = dataset, batch_size, shuffle, seed
        self._whole, self._workers = whole, workers

    def train_dataloader(self) -> TrainingBatches:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        rows = self._dataset.train
        return TrainingBatches(
            rows.to(device) if isinstance(rows, torch.Tensor) else rows,
            batch_size=self._batch_size,
            shuffle=self._shuffle,
            access=self._dataset.access,
            seed=self._seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            whole=self._whole,
            device=device,
            dtype=next(self.trainer.lightning_module.parameters()).dtype,
            workers=self._workers,
        )


def _about_loss(module: pl.LightningModule, tell: Tell) -> Tell:
    """Return a teller of losses, named by what they are.

    That of our own module is minus the bound; that of another, and of a warm-up that is not the bound yet, is a loss.
    """

    def told(numbers: Mapping[str, Any]) -> None:
        loss, batch = numbers["loss"], numbers["batch"]
        is_bound = isinstance(module, BoundModule) and module.ascended(batch.epoch) == module.objective
        named = {"train/bound": -loss} if is_bound else {"train/loss": loss}
        tell({"step": numbers["step"], "train/epoch": numbers["epoch"], "train/lr": numbers["lr"], **named})

    return told


def _under(prefix: str, tell: Tell) -> Tell:
    """Return a teller of measurements, with their metrics below a prefix and gaps below `gap/`."""

    def told(entry: Mapping[str, Any]) -> None:
        if rank_and_world_size()[0] == 0:
            named = {f"{prefix}/{_path(name)}": value for name, value in entry["metrics"].items()}
            tell({"step": entry["step"], f"{prefix}/epoch": entry["epoch"], **named})

    return told


def _path(name: str) -> str:
    return f"gap/{name.removesuffix('_gap')}" if name.endswith("_gap") else name


def make_trainer(
    options: TrainerOptions, run_id: str, max_epochs: float, callbacks: list[pl.Callback] | None = None
) -> pl.Trainer:
    """Return Lightning's Trainer without messages, with atomic checkpoints and without a sampler of its own.

    `max_epochs` only tells schedules how long the training is: `EndTraining` ends it.

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
            max_epochs=-1 if math.isinf(max_epochs) else math.ceil(max_epochs),
            gradient_clip_val=options.gradient_clip_norm,
            accumulate_grad_batches=options.accumulate_grad_batches,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(run_id), cluster_environment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except Exception as error:  # Lightning's own, and whatever a back end raises
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None


def _ended_by(limits: Limits, ending: EndTraining, validation: Validation | None) -> EndedBy:
    if validation is not None and validation.gave_up:
        return "patience"
    return "seconds" if ending.is_time_spent else limits.batches_by


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
    run_id: str,
    counted: DecoderEvaluations,
    batch_size: int,
    shuffle: bool,
    seed: int,
    bounds: Mapping[str, Bound],
    tell: Tell,
    whole: bool = False,
    workers: int = 0,
    show: bool = True,
) -> Trained:
    """Train a module, or resume the run whose `last.ckpt` lies in the folder.

    `run_id` names the run: a checkpoint of another run is refused. `counted` says what the training decodes, by which
    its budget may go. `bounds` are measured over training beside the
    evaluator's own; `tell` is called with what is measured meanwhile, flat and with the optimiser step under `step`, on
    rank 0. `whole` gives every rank all rows of each global batch, and `workers` read rows that lie in a file, see
    `TrainingBatches`. `show` its progress.

    Raises:
        UsageError: Lightning refuses the options; nothing was written.
        RunFailedError: A loss is not finite, or a checkpoint cannot be written.
        StoppedError: A signal stopped the run; it is saved.
    """
    finite_loss = FiniteLoss(folder / "last.ckpt")
    checkpoints = Checkpoints(folder, options.checkpoint_seconds, finite_loss)
    callbacks: list[pl.Callback] = [finite_loss]
    validation: Validation | None = None
    limits = options.limits(counted)
    epochs = limits.epochs(counted)
    if (every := options.validated_every(epochs)) is not None:
        validation = Validation(
            dataset.observations("validation", options.validation_examples)[0],
            every=every,
            seconds_apart=limits.seconds / 20 if limits.seconds and options.validate_every == "auto" else 0.0,
            num_samples=options.validation_samples,
            seed=seed,
            bounds=bounds,
            tell=_under("val", tell),
            checkpoints=checkpoints,
            keep_best=options.checkpoint == "best",
            patience=options.patience,
        )
        callbacks.append(validation)
    last = checkpoints.last if checkpoints.last.exists() else None
    ending, stopping = EndTraining(limits, checkpoints), StopOnSignal(checkpoints)
    # A callback that saves or stops comes behind those whose state is then saved.
    callbacks += [ending, checkpoints, stopping, TellLoss(_about_loss(module, tell))]
    callbacks += [ShowProgress(ending, limits.batches)] if show else []
    trainer = make_trainer(options, run_id, epochs, [SameStart(last is not None), *callbacks])
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # where it is set, Lightning leaves the number alone
    torch.set_num_threads(options.threads)
    try:
        trainer.fit(
            module,
            datamodule=_Data(dataset, batch_size, shuffle, seed, whole, workers),
            ckpt_path=last,
            weights_only=True,
        )
    except SystemExit:  # Lightning makes it of a second Ctrl-C
        raise KeyboardInterrupt from None
    stopping.pass_on()
    seconds = checkpoints.elapsed
    scored = checkpoints.best if options.checkpoint == "best" and checkpoints.best.exists() else checkpoints.last
    done, per_epoch = ending.batches, counted.batches_per_epoch
    facts = {
        "epochs": done / per_epoch if done % per_epoch else done // per_epoch,
        "steps": trainer.global_step,
        "batches": done,
        "ended_by": _ended_by(limits, ending, validation),
        "train_seconds": seconds,
        "world_size": trainer.world_size,
        "device": str(trainer.strategy.root_device.type),
        "validation": validation.history if validation is not None else [],
    }
    return Trained(scored, facts, trainer.strategy.root_device, trainer.is_global_zero)
