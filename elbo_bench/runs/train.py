"""Train a run, evaluate it and write its record."""

import contextlib
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import nn

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import ElboBenchError, UsageError
from elbo_bench.evaluation.pictures import reconstructions, samples
from elbo_bench.files import atomic_write
from elbo_bench.noise import Noise
from elbo_bench.output import say
from elbo_bench.ranks import is_first, others_were_started
from elbo_bench.results.claim import claimed
from elbo_bench.results.pictures import is_image, write_sheet
from elbo_bench.results.record import RESULT, WEIGHTS, read_result, write_result
from elbo_bench.results.replacing import FORCED, finish_replacing
from elbo_bench.runs.evaluate import evaluate_further
from elbo_bench.runs.fit import Trained, fit, make_trainer
from elbo_bench.runs.processes import check_processes
from elbo_bench.runs.run import Run, discard_blocks, run_facts
from elbo_bench.tracking.none import SilentSession
from elbo_bench.tracking.tracker import Tracker
from elbo_bench.training.checkpoints import load_checkpoint
from elbo_bench.training.end_training import EndTraining
from elbo_bench.training.module import BoundModule
from elbo_bench.training.options import TrainerOptions


def train(cfg: Config, catalogue: Catalogue, folder: Path, *, force: bool = False) -> Mapping[str, Any] | None:
    """Train a checked configuration, evaluate it, and return its record. Ranks other than 0 return None.

    Args:
        cfg: The configuration.
        catalogue: The names that a configuration may use.
        folder: The run's folder. A training that was stopped resumes from its last checkpoint.
        force: Whether to compute a recorded run again. The old record stays until the new one is written.

    Raises:
        UsageError: The configuration cannot be run. Nothing was written.
        BusyError: Another process is computing this run.
        RunFailedError: The run failed, and there is no record.
        StoppedError: A signal stopped the run. The same call resumes it.
    """
    run = Run.build(cfg, catalogue)
    if not run.evaluator.ends_training:
        raise UsageError(
            f"evaluation={cfg['evaluation']['name']}: it does not give what runs are ranked by; train with "
            f"evaluation=importance, then `elbo-bench evaluate RUN evaluation={cfg['evaluation']['name']}`"
        )
    options = run.make("trainer", TrainerOptions)
    for further in cfg["then_evaluate"]:
        run.check_evaluation(further)
    limits = options.limits(run.decoder_evaluations(options))
    check_processes(options, make_trainer(options, run.id, 1.0).strategy)
    tracker = run.make("tracking", Tracker)  # type: ignore[type-abstract]
    first = is_first()
    with claimed(folder) if first else contextlib.nullcontext():
        if first:
            finish_replacing(folder)
        if first and not others_were_started() and not force and (folder / RESULT).exists():
            evaluate_further(cfg, catalogue, folder, dataset=run.dataset)
            return read_result(folder)  # another process wrote the record in the meantime
        work = folder / FORCED if force else folder
        if first:
            work.mkdir(exist_ok=True)
            (work / "config.yaml").write_text(config.to_yaml(cfg), encoding="utf-8")
            if isinstance(run.module, BoundModule) and run.module.warmup.end > limits.epochs:
                say(
                    f"the warm-up takes {run.module.warmup.end:g} epochs, and training ends after {limits.epochs:g} "
                    "at most, still on its way to the objective"
                )
        # A plug-in may draw from torch's own generator.
        torch.manual_seed(Noise(cfg["seed"], "torch").torch_seed())
        session = tracker.start(run_facts(cfg, folder, "train")) if first else SilentSession()
        try:
            trained = fit(run, options, work / "checkpoints", log=session.log)
            result = _finish(run, trained, work)
            if result is not None and force:
                finish_replacing(folder)
        except BaseException as error:
            session.abandon(error.exit_code if isinstance(error, ElboBenchError) else 1)
            raise
        session.finish(folder)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the other ranks read the record only after it is written
        evaluate_further(cfg, catalogue, folder, dataset=run.dataset, device=trained.device)
        return result


def _finish(run: Run, trained: Trained, folder: Path) -> dict[str, Any] | None:
    """Evaluate the chosen checkpoint, read from its file, and write the record into a folder."""
    checkpoint = load_checkpoint(trained.checkpoint, run.id)
    run.module.load_state_dict(checkpoint["state_dict"])
    run.module.to(trained.device)
    evaluation, seconds = run.evaluate(folder)
    if not trained.is_global_zero:
        return None
    compute = {**trained.facts, "evaluate_seconds": seconds}
    batches_per_epoch = -(-len(run.dataset.train) // run.source.batch_size)
    scored = {
        "scored": trained.checkpoint.stem,
        "epoch": math.ceil(EndTraining.batches_in(checkpoint) / batches_per_epoch),
        "step": int(checkpoint["global_step"]),
        "validation": compute.pop("validation"),
        "weights_sha256": _save_weights(run.model, folder / WEIGHTS),
    }
    result = run.result(run.id, evaluation, scored, compute)
    try:
        _draw_pictures(run, folder)
    except Exception as error:  # a model's own code; pictures are no part of the record
        say(f"no pictures were drawn: {type(error).__name__}: {error}")
    write_result(folder, result, evaluation.examples)
    discard_blocks(folder)
    return result


def _draw_pictures(run: Run, folder: Path) -> None:
    """Write samples, and reconstructions below their originals, if the data are images."""
    dataset, seed = run.dataset, run.cfg["seed"]
    if not is_image(dataset.info.shape):
        return
    model = cast("LatentVariableModel", run.model)
    parameter = next(run.model.parameters())
    x = dataset.observations("test", 20, seed=seed)[0].to(parameter)
    x = x[: len(x) // 10 * 10 or len(x)]  # rows of ten, or one shorter row
    pairs = torch.stack([x, reconstructions(model, x, seed)]).unflatten(1, (-1, min(10, len(x))))
    sheets = {
        "reconstructions": pairs.transpose(0, 1).flatten(0, 1),
        "samples": samples(model, 50, seed, like=x).unflatten(0, (5, 10)),
    }
    for name, images in sheets.items():
        grey = dataset.grey(images.float().cpu().flatten(0, 1)).view(images.shape)
        write_sheet(folder / f"{name}.png", grey.numpy())


def _save_weights(model: nn.Module, target: Path) -> str:
    """Write a model's weights atomically, and return the sha256 of the file."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = safetensors.torch.save(state)
    with atomic_write(target) as new:
        new.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
