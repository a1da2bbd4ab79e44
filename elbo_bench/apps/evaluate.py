"""`elbo-bench evaluate`: score a recorded run again, from its weights."""

import argparse
import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from elbo_bench import config
from elbo_bench.apps.components import Components, check_launch, discard_blocks, make, run_facts
from elbo_bench.apps.paths import runs_root
from elbo_bench.apps.show import show_result
from elbo_bench.catalogue import Catalogue, Config
from elbo_bench.errors import UsageError, nearest
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.overrides import parse_overrides
from elbo_bench.ranks import is_first, others_were_started
from elbo_bench.results.further import lacking
from elbo_bench.results.record import RESULT, WEIGHTS, read_result, write_result
from elbo_bench.tracking.tracker import Tracker
from elbo_bench.training.options import TrainerOptions

_NEEDED = ("seed", "data", "model", "objective", "trainer", "evaluation")
_PLACEMENT = ("accelerator", "devices", "num_nodes", "strategy")
_WHERE_DATA_LIE = ("path", "in_memory", "readers")  # of a user's own file, which is known by its content


def run(arguments: argparse.Namespace) -> None:
    """Score a run's weights, or a checkpoint's, and write the result below the run.

    Raises:
        ElboBenchError: See `elbo_bench.cli.main` for what each kind means.
    """
    folder, checkpoint = find_run(arguments.run)
    recorded = read_result(folder)
    catalogue = Catalogue.of(arguments.conf)
    given = parse_overrides(arguments.overrides, catalogue)
    _refuse_training(given)
    cfg, catalogue = _configuration(recorded, given, catalogue, trust=arguments.trust)
    target = _target(folder, cfg, checkpoint)
    if (target / RESULT).exists() and not arguments.force:
        note = "recorded already, nothing was computed; --force computes it again"
        show_result(read_result(target), target, as_json=arguments.json, note=note)
        return
    job = Job(cfg, catalogue, folder, target, checkpoint)
    if arguments.force and is_first():
        discard_blocks(target)  # before other ranks are started, which may already save theirs
    result = job.score(recorded, lambda: _launch(make("trainer", TrainerOptions, cfg, catalogue)))
    if result is not None:
        show_result(result, target, as_json=arguments.json)


def evaluate_further(cfg: Config, catalogue: Catalogue, folder: Path, device: torch.device | None = None) -> None:
    """Compute what a configuration wants evaluated beside its run's record, as far as that has no record yet.

    Args:
        cfg: The run's configuration, checked.
        catalogue: Where names are looked up.
        folder: The run's folder, with its record.
        device: Where this process computes, one of several ranks if it is; None starts them if need be.

    Raises:
        ElboBenchError: One cannot be computed.
    """
    for wanted in lacking(folder, cfg["then_evaluate"]):
        recorded = read_result(folder)
        given = {"evaluation": dict(wanted), "trainer": {key: cfg["trainer"][key] for key in _PLACEMENT}}
        own, catalogue = _configuration(recorded, given, catalogue, trust=False)
        own["tracking"] = cfg["tracking"]
        job = Job(own, catalogue, folder, _target(folder, own, None), None)
        options = make("trainer", TrainerOptions, own, catalogue)
        job.score(recorded, lambda: device or _launch(options))  # noqa: B023 - it is called at once


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation of a run's weights.

    Attributes:
        cfg: The run's configuration, with the evaluation.
        catalogue: Where names are looked up.
        folder: The run's.
        target: Where the evaluation is recorded.
        checkpoint: What is scored; None is the run's own weights.
    """

    cfg: Config
    catalogue: Catalogue
    folder: Path
    target: Path
    checkpoint: Path | None

    def score(self, recorded: Mapping[str, Any], launch: Callable[[], torch.device]) -> dict[str, Any] | None:
        """Load the weights, score them, record and mirror that; return the record, or None on ranks other than 0.

        `launch` returns this process's device, and starts other ranks if need be: when nothing is left to refuse.
        """
        cfg, target = self.cfg, self.target
        components = Components.build(cfg, self.catalogue)
        components.split()
        scored = _load_weights(components.model, self.folder, recorded, self.checkpoint)
        device = launch()
        components.model.to(device)
        evaluation, seconds = components.score(target)
        rank, world_size = rank_and_world_size()
        if rank != 0:
            return None
        compute = {"evaluate_seconds": seconds, "world_size": world_size, "device": device.type}
        result = components.result(recorded["run_id"], evaluation, scored, compute)
        write_result(target, result, evaluation.examples)
        discard_blocks(target)
        facts = dataclasses.replace(run_facts(cfg, target, "evaluate"), run_id=f"{recorded['run_id']}-{target.name}")
        if "WANDB_SWEEP_ID" not in os.environ:  # an agent has one run in W&B, and that is the training
            make("tracking", Tracker, cfg, self.catalogue).start(facts).finish(target)  # type: ignore[type-abstract]
        return result


def _target(folder: Path, cfg: Config, checkpoint: Path | None) -> Path:
    """Return where an evaluation of some weights is recorded."""
    weights = checkpoint or folder / WEIGHTS
    identity = {**config.identity(cfg), "weights": weights.name, "sha256": _sha256(weights)}
    return folder / "evaluations" / config.digest(identity)


def _sha256(place: Path) -> str:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror or error}") from None


def find_run(name: str) -> tuple[Path, Path | None]:
    """Return a run's folder, and the checkpoint inside of it if that is what was named.

    Raises:
        UsageError: It is neither a run's folder or name nor a checkpoint; the line names the nearest run.
    """
    try:
        place = Path(name).expanduser()
        if place.is_file() and place.suffix == ".ckpt":
            folder, checkpoint = place.resolve().parent.parent, place.resolve()
        else:
            folder, checkpoint = (place if place.is_dir() else runs_root() / name), None
        found = (folder / RESULT).is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of nobody
        raise UsageError(f"{name} is not a run; {getattr(error, 'strerror', None) or error}") from None
    if not found:
        if folder.is_dir() and (folder / "config.yaml").is_file():
            raise UsageError(f"{folder} has no record yet: the run is not done")
        known = [run.name for run in runs_root().glob("*") if (run / RESULT).is_file()]
        raise UsageError(f"{name} is not a run; {nearest(Path(name).name, known)}")
    return folder, checkpoint


def _refuse_training(given: Config) -> None:
    for group, keys in given.items():
        allowed = {"evaluation": None, "tracking": None, "trainer": _PLACEMENT, "data": _WHERE_DATA_LIE}
        if group not in allowed:
            raise UsageError(f"{group}: evaluate does not change how a run was trained; {nearest(group, allowed)}")
        for key in keys:
            if (valid := allowed[group]) is not None and key not in valid:
                raise UsageError(
                    f"{group}.{key}: evaluate does not change how a run was trained; {nearest(key, valid)}"
                )


def _configuration(
    recorded: dict[str, Any], given: Config, catalogue: Catalogue, *, trust: bool
) -> tuple[Config, Catalogue]:
    """Return the recorded configuration with the evaluation, and the place to compute it, that are wanted."""
    missing = [key for key in _NEEDED if key not in recorded["cfg"]]
    if missing:
        raise UsageError(f"the recorded configuration has no {missing[0]}")
    cfg, catalogue = config.load_recorded(recorded["cfg"], catalogue, trust=trust)
    # Where the run was trained says nothing about where it is scored.
    trainer = {key: value for key, value in cfg["trainer"].items() if key not in _PLACEMENT}
    # Whose account a run was told to says nothing about whose it is told to now: only the kind of tracking is kept.
    layers = {key: cfg[key] for key in ("data", "evaluation")}
    layers |= {"trainer": trainer, "tracking": {"name": cfg["tracking"]["name"]}}
    for group, layer in layers.items():
        cfg[group] = config.resolve_group(group, group, [layer, given.get(group, {})], catalogue)
    return config.check(cfg, catalogue, only=(*_NEEDED, "tracking")), catalogue


def _load_weights(
    model: nn.Module, folder: Path, recorded: Mapping[str, Any], checkpoint: Path | None
) -> dict[str, Any]:
    """Load the weights that were scored, or a checkpoint's, and return what the record says of them."""
    if checkpoint is not None:
        from elbo_bench.training.checkpoints import load_checkpoint  # Lightning takes seconds to import

        content = load_checkpoint(checkpoint, recorded["run_id"])
        prefix = "model."
        state = {
            name.removeprefix(prefix): value
            for name, value in content["state_dict"].items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        scored = {"scored": checkpoint.stem, "epoch": content.get("epoch"), "step": content.get("global_step")}
        place = checkpoint
    else:
        place = folder / WEIGHTS
        state, digest = _read_safetensors(place)
        scored = recorded["checkpoint"]
        if digest != scored.get("weights_sha256"):
            raise UsageError(f"{place} is not the file that was recorded: its sha256 is {digest[:16]}...")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{place} does not fit the recorded model: {' '.join(str(error).split())[:200]}") from None
    if checkpoint is not None and not all(isinstance(scored[key], int) for key in ("epoch", "step")):
        raise UsageError(f"checkpoint {place} is not a checkpoint: its epoch or step is no number")
    return scored


def _read_safetensors(place: Path) -> tuple[dict[str, Tensor], str]:
    try:
        content = place.read_bytes()
        return safetensors.torch.load(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # safetensors has an error of its own that is no ValueError
        raise UsageError(f"{place} is not a file of weights: {error}") from None


def _launch(options: TrainerOptions) -> torch.device:
    """Start the other ranks, if more than one is asked for, and return this one's device."""
    alone = options.devices in ("auto", 1) and options.num_nodes == 1 and options.accelerator in ("auto", "cpu")
    alone = alone and options.strategy == "auto"
    if alone and not torch.cuda.is_available() and not others_were_started():
        return torch.device("cpu")
    from lightning.fabric import Fabric  # Lightning takes seconds to import

    from elbo_bench.training.environment import cluster_environment

    try:
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.num_nodes,
            strategy=options.strategy,
            plugins=[cluster_environment()],
        )
    except Exception as error:  # Lightning's own, and whatever a back end raises
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from None
    check_launch(options, fabric.strategy)
    fabric.launch()
    return fabric.device
