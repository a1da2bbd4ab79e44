"""`elbo-bench train`: one run, from data to a record."""

import argparse
import contextlib
import dataclasses
import hashlib
import math
import tempfile
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import safetensors.torch
import torch
from torch import nn

from elbo_bench import config
from elbo_bench.apps.components import Components, check_launch, discard_blocks, make, run_facts
from elbo_bench.apps.evaluate import evaluate_further
from elbo_bench.apps.paths import runs_root
from elbo_bench.apps.pinning import pinned
from elbo_bench.apps.show import show_result
from elbo_bench.catalogue import Catalogue, Config
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import ElboBenchError, UsageError
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.evaluation.pictures import reconstructions, samples
from elbo_bench.noise import Noise
from elbo_bench.output import say
from elbo_bench.ranks import is_first, others_were_started
from elbo_bench.results.claim import claimed
from elbo_bench.results.further import lacking
from elbo_bench.results.pictures import is_image, write_sheet
from elbo_bench.results.record import RESULT, WEIGHTS, read_result, replace, write_result
from elbo_bench.results.replacing import FORCED, finish_replacing
from elbo_bench.tracking.none import SilentSession
from elbo_bench.tracking.tracker import Tracker
from elbo_bench.training.checkpoints import load_checkpoint
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.training.end_training import EndTraining
from elbo_bench.training.fit import Trained, fit, make_trainer
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import Optimizer
from elbo_bench.training.options import TrainerOptions


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate and record, or show what is recorded already.

    Raises:
        ElboBenchError: See `elbo_bench.cli.main` for what each kind means.
    """
    catalogue = Catalogue.of(arguments.conf)
    cfg = config.check(config.resolve(arguments.overrides, catalogue), catalogue)
    if arguments.print_config:
        print(config.to_yaml(cfg), end="")  # noqa: T201
        return
    cfg = pinned(cfg, catalogue)
    folder = runs_root() / config.run_id(cfg)
    if (folder / RESULT).exists() and not arguments.force:
        note = "recorded already, nothing was computed; --force computes it again"
        if lacking(folder, cfg["then_evaluate"]):
            evaluate_further(cfg, catalogue, folder)
            if rank_and_world_size()[0]:
                return
            note = "recorded already; only further evaluations were computed"
        show_result(read_result(folder), folder, as_json=arguments.json, note=note)
        return
    result = train(cfg, catalogue, folder, force=arguments.force)
    if result is not None:
        show_result(result, folder, as_json=arguments.json)


def train(cfg: Config, catalogue: Catalogue, folder: Path, *, force: bool = False) -> dict[str, Any] | None:
    """Run a checked configuration into a folder and return its record; None on ranks other than 0.

    Raises:
        UsageError: The configuration cannot be run; nothing was written.
        BusyError: Another process computes it at this moment.
        RunFailedError: It broke on the way; there is no record.
        StoppedError: A signal stopped it; the same call resumes it.
    """
    components = Components.build(cfg, catalogue)
    if not components.evaluator.ranks:
        raise UsageError(
            f"evaluation={cfg['evaluation']['name']}: it does not give what runs are ranked by; train with "
            f"evaluation=importance, then `elbo-bench evaluate RUN evaluation={cfg['evaluation']['name']}`"
        )
    options = make("trainer", TrainerOptions, cfg, catalogue)
    components.split()  # the part of the split that is asked for exists
    for further in cfg["then_evaluate"]:
        Components.build({**cfg, "evaluation": further}, catalogue).split()
    module = make_module(components, catalogue)
    counted = count_decoded(components, module, options)
    limits = options.limits(counted)
    check_launch(options, make_trainer(options, folder.name, 1.0).strategy)  # Lightning and we accept the devices
    tracker = make("tracking", Tracker, cfg, catalogue)  # type: ignore[type-abstract]
    first = is_first()
    with claimed(folder) if first else contextlib.nullcontext():
        if first:
            finish_replacing(folder)
        alone = not others_were_started()
        if first and alone and not force and (folder / RESULT).exists():
            evaluate_further(cfg, catalogue, folder)
            return read_result(folder)  # another process recorded it while this one got ready
        work = folder / FORCED if force else folder
        if first:
            work.mkdir(exist_ok=True)
            (work / "config.yaml").write_text(config.to_yaml(cfg), encoding="utf-8")
            epochs = limits.epochs(counted)
            if isinstance(module, BoundModule) and module.warmup.end > epochs:
                _say_unfinished(module, epochs)
        # What a plug-in draws from torch's own generator is then at least the same in every run.
        torch.manual_seed(Noise(cfg["seed"], "torch").torch_seed())
        session = tracker.start(run_facts(cfg, folder, "train")) if first else SilentSession()
        try:
            trained = fit(
                module,
                components.dataset,
                options,
                work / "checkpoints",
                run_id=folder.name,
                counted=counted,
                batch_size=components.source.batch_size,
                shuffle=components.source.shuffle,
                seed=cfg["seed"],
                bounds={name: bound for name, bound in components.bounds.items() if name == "bound"},
                tell=session.log,
                whole=components.objective.scope == "batch",
                workers=components.source.readers,
            )
            result = _finish(components, module, trained, counted, work, folder.name)
            if result is not None and force:
                finish_replacing(folder)
        except BaseException as error:
            session.abandon(error.exit_code if isinstance(error, ElboBenchError) else 1)
            raise
        session.finish(folder)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the record that the others now read stands
        evaluate_further(cfg, catalogue, folder, trained.device)
        return result


def _say_unfinished(module: BoundModule, epochs: float) -> None:
    say(
        f"the warm-up takes {module.warmup.end:g} epochs, and training ends after {epochs:g} at most, "
        "still on its way to the objective"
    )


def count_decoded(components: Components, module: pl.LightningModule, options: TrainerOptions) -> DecoderEvaluations:
    """Return what counts the latents that a training decodes; K may be warmed up."""
    counted = DecoderEvaluations(
        num_train=len(components.dataset.train),
        batch_size=components.source.batch_size,
        each=components.latents_decoded,
        accumulate=options.accumulate_grad_batches,
    )
    if not isinstance(module, BoundModule) or components.objective.latents != "sampled":
        return counted
    ascended = module.ascended
    return dataclasses.replace(counted, warming=lambda epoch: ascended(epoch).samples_required, warm=module.warmup.end)


def make_module(components: Components, catalogue: Catalogue) -> pl.LightningModule:
    """Return the Lightning module of a run.

    Raises:
        UsageError: It is none, or has another model.
    """
    cfg = components.cfg
    module = config.make(
        "module",
        cfg["module"],
        catalogue,
        model=components.model,
        objective=components.objective,
        optimizer=make("optimizer", Optimizer, cfg, catalogue),  # type: ignore[type-abstract]
        info=components.dataset.info,
        seed=cfg["seed"],
    )
    if not isinstance(module, pl.LightningModule) or not isinstance(getattr(module, "model", None), nn.Module):
        raise UsageError(f"module={cfg['module']['name']}: it must be a LightningModule with an attribute `model`")
    if module.model is not components.model:
        raise UsageError(f"module={cfg['module']['name']}: its `model` must be the one that it is given")
    return module


def _finish(
    components: Components,
    module: pl.LightningModule,
    trained: Trained,
    counted: DecoderEvaluations,
    folder: Path,
    run_id: str,
) -> dict[str, Any] | None:
    """Score the checkpoint that training chose, as it lies on disk, and write the record into a folder."""
    checkpoint = load_checkpoint(trained.checkpoint, run_id)
    module.load_state_dict(checkpoint["state_dict"])
    module.to(trained.device)
    evaluation, seconds = components.score(folder)
    if not trained.is_global_zero:
        return None
    facts = dict(trained.facts)
    validation = facts.pop("validation")
    compute = {
        **facts,
        "evaluate_seconds": seconds,
        "train_decoder_evaluations": counted.after(facts["batches"]),
    }
    scored = {
        "scored": trained.checkpoint.stem,
        "epoch": math.ceil(EndTraining.batches_in(checkpoint) / counted.batches_per_epoch),
        "step": int(checkpoint["global_step"]),
        "validation": validation,
        "weights_sha256": _save_weights(components.model, folder / WEIGHTS),
    }
    result = components.result(run_id, evaluation, scored, compute)
    try:
        _draw_pictures(components, folder)
    except Exception as error:  # a model's own code; pictures are no part of the record
        say(f"no pictures were drawn: {type(error).__name__}: {error}")
    write_result(folder, result, evaluation.examples)
    discard_blocks(folder)
    return result


def _draw_pictures(components: Components, folder: Path) -> None:
    """Write samples, and reconstructions below their originals, if the data are images."""
    dataset, seed = components.dataset, components.cfg["seed"]
    if not is_image(dataset.info.shape):
        return
    model = cast("LatentVariableModel", components.model)
    parameter = next(components.model.parameters())
    x = dataset.observations("test", 20, seed=seed)[0].to(parameter)
    x = x[: len(x) // 10 * 10 or len(x)]  # whole rows of ten, or one that is shorter
    pairs = torch.stack([x, reconstructions(model, x, seed)]).unflatten(1, (-1, min(10, len(x))))
    sheets = {
        "reconstructions": pairs.transpose(0, 1).flatten(0, 1),
        "samples": samples(model, 50, seed, like=x).unflatten(0, (5, 10)),
    }
    for name, images in sheets.items():
        grey = dataset.grey(images.float().cpu().flatten(0, 1)).view(images.shape)
        write_sheet(folder / f"{name}.png", grey.numpy())


def _save_weights(model: nn.Module, target: Path) -> str:
    """Write a model's weights for sharing, atomically, and return their sha256."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
        place = Path(scratch) / WEIGHTS
        content = safetensors.torch.save(state)
        place.write_bytes(content)
        replace(place, target)
    return hashlib.sha256(content).hexdigest()
