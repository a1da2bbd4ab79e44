"""Train a run by Lightning's Trainer, or resume it from its last checkpoint."""

import dataclasses
import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from elbo_bench.data.batches import TrainingBatches
from elbo_bench.errors import UsageError
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.runs.run import Run
from elbo_bench.training.checkpoints import AtomicCheckpointIO, Checkpoints
from elbo_bench.training.end_training import EndTraining
from elbo_bench.training.environment import cluster_environment
from elbo_bench.training.finite_loss import FiniteLoss
from elbo_bench.training.log_loss import Log, LogLoss
from elbo_bench.training.options import TrainerOptions
from elbo_bench.training.same_start import SameStart
from elbo_bench.training.show_progress import ShowProgress
from elbo_bench.training.stop_on_signal import StopOnSignal
from elbo_bench.training.validation import Validation


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        checkpoint: The checkpoint that will be evaluated.
        facts: Epochs, steps, seconds and more, for the record.
        device: Device of this process.
        is_global_zero: Whether this process is rank 0, which writes the record.
    """

    checkpoint: Path
    facts: dict[str, Any]
    device: torch.device
    is_global_zero: bool


class _Data(pl.LightningDataModule):
    """Gives Lightning the training batches, on the device."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def train_dataloader(self) -> TrainingBatches:
        assert self.trainer is not None
        run, device = self._run, self.trainer.strategy.root_device
        examples = run.dataset.train
        return TrainingBatches(
            examples.to(device) if isinstance(examples, torch.Tensor) else examples,
            batch_size=run.source.batch_size,
            shuffle=run.source.shuffle,
            access=run.dataset.access,
            seed=run.cfg["seed"],
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            full_batches=run.objective.scope == "batch",
            device=device,
            dtype=next(self.trainer.lightning_module.parameters()).dtype,
            workers=run.source.readers,
        )


def make_trainer(
    options: TrainerOptions, run_id: str, max_epochs: float, callbacks: list[pl.Callback] | None = None
) -> pl.Trainer:
    """Return Lightning's Trainer. It writes checkpoints atomically, prints no messages and adds no sampler.

    `max_epochs` only gives schedules the length of the training. The callback `EndTraining` ends the training.

    Raises:
        UsageError: Lightning refuses the devices, the strategy or the precision.
    """
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")  # advice on speed, not on results
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
    except Exception as error:  # Lightning's own, and those of a back end
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None


def fit(run: Run, options: TrainerOptions, folder: Path, *, log: Log | None = None) -> Trained:
    """Train a run. If the folder has a `last.ckpt`, the training resumes from it.

    Args:
        run: The run.
        options: The keys of the training.
        folder: The folder of checkpoints.
        log: Called with the losses and the validations, and the optimiser step under `step`. Without `log`, no
            progress is shown either.

    Raises:
        UsageError: Lightning refuses the options. Nothing was written.
        RunFailedError: A loss is not finite, or a checkpoint cannot be written.
        StoppedError: A signal stopped the run. It was saved.
    """
    finite_loss = FiniteLoss(folder / "last.ckpt")
    checkpoints = Checkpoints(folder, options.checkpoint_seconds, finite_loss)
    counted = run.decoder_evaluations(options)
    limits = options.limits(counted)
    ending, stopping = EndTraining(limits, checkpoints), StopOnSignal(checkpoints)
    callbacks: list[pl.Callback] = [finite_loss]
    validation: Validation | None = None
    if options.validate_every is not None:
        x = run.dataset.observations("validation", options.validation_examples)[0]
        request = Request(seed=run.cfg["seed"], trained_with=run.bound)
        validation = Validation(x, request, options, limits, checkpoints=checkpoints, log=log or (lambda _: None))
        callbacks.append(validation)
    # A callback that saves or stops comes after those whose state it saves.
    callbacks += [ending, checkpoints, stopping]
    if log is not None:
        callbacks += [LogLoss(log), ShowProgress(ending, limits.batches)]
    last = checkpoints.last if checkpoints.last.exists() else None
    trainer = make_trainer(options, run.id, limits.epochs, [SameStart(last is not None), *callbacks])
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # if it is set, Lightning does not change the threads
    torch.set_num_threads(options.threads)
    try:
        trainer.fit(run.module, datamodule=_Data(run), ckpt_path=last, weights_only=True)
    except SystemExit:  # Lightning raises it at a second Ctrl-C
        raise KeyboardInterrupt from None
    stopping.raise_again()
    seconds = checkpoints.elapsed
    use_best = options.checkpoint == "best" and checkpoints.best.exists()
    done, per_epoch = ending.batches, counted.batches_per_epoch
    facts = {
        "epochs": done / per_epoch if done % per_epoch else done // per_epoch,
        "steps": trainer.global_step,
        "batches": done,
        "ended_by": "patience" if validation is not None and validation.patience_is_over else ending.ended_by,
        "train_seconds": seconds,
        "world_size": trainer.world_size,
        "device": str(trainer.strategy.root_device.type),
        "validation": [] if validation is None else validation.history,
        "train_decoder_evaluations": counted.after(done),
    }
    scored = checkpoints.best if use_best else checkpoints.last
    return Trained(scored, facts, trainer.strategy.root_device, trainer.is_global_zero)
