"""Evaluate a recorded run again, from its weights or a checkpoint."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.data.dataset import Dataset
from elbo_bench.errors import UsageError, nearest
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.files import runs_root
from elbo_bench.results.further import missing_evaluations
from elbo_bench.results.record import RESULT, WEIGHTS, read_result, write_result
from elbo_bench.runs.processes import start_processes
from elbo_bench.runs.run import Run, discard_blocks, run_facts
from elbo_bench.tracking.tracker import Tracker
from elbo_bench.training.options import TrainerOptions

_NEEDED = ("seed", "data", "model", "objective", "trainer", "evaluation")
_PROCESSES = ("accelerator", "devices", "num_nodes", "strategy")
_DATA_FILES = ("path", "in_memory", "readers")  # a user's own file is identified by its content


def evaluate_further(
    cfg: Config,
    catalogue: Catalogue,
    folder: Path,
    *,
    dataset: Dataset | None = None,
    device: torch.device | None = None,
) -> None:
    """Compute the evaluations of `then_evaluate` that have no record yet.

    Args:
        cfg: The run's checked configuration.
        catalogue: The names that a configuration may use.
        folder: The run's folder, with its record.
        dataset: The run's data, if they are loaded already.
        device: This process's device, if its ranks are started already.

    Raises:
        ElboBenchError: An evaluation cannot be computed.
    """
    for wanted in missing_evaluations(folder, cfg["then_evaluate"]):
        recorded = read_result(folder)
        given = {"evaluation": dict(wanted), "trainer": {key: cfg["trainer"][key] for key in _PROCESSES}}
        own, catalogue = recorded_configuration(recorded, given, catalogue, trust=False)
        own["tracking"] = cfg["tracking"]
        run = Run.build(own, catalogue, dataset)
        dataset = run.dataset
        evaluate_again(run, folder, target_of(folder, own, None), device=device)


def evaluate_again(
    run: Run, folder: Path, target: Path, *, checkpoint: Path | None = None, device: torch.device | None = None
) -> dict[str, Any] | None:
    """Evaluate weights of a recorded run, and write the record. Ranks other than 0 return None.

    Args:
        run: The run, with the new evaluation.
        folder: The folder of the recorded run.
        target: The folder of the new record.
        checkpoint: The checkpoint to evaluate. None is the run's own weights.
        device: This process's device. If None, the ranks are started, when nothing is left to refuse.

    Raises:
        ElboBenchError: The weights cannot be read, or the evaluation fails.
    """
    recorded = read_result(folder)
    scored = _load_weights(run.model, folder, recorded, checkpoint)
    device = device or start_processes(run.make("trainer", TrainerOptions))
    run.model.to(device)
    evaluation, seconds = run.evaluate(target)
    rank, world_size = rank_and_world_size()
    if rank != 0:
        return None
    compute = {"evaluate_seconds": seconds, "world_size": world_size, "device": device.type}
    result = run.result(recorded["run_id"], evaluation, scored, compute)
    write_result(target, result, evaluation.examples)
    discard_blocks(target)
    facts = dataclasses.replace(run_facts(run.cfg, target, "evaluate"), run_id=f"{recorded['run_id']}-{target.name}")
    if "WANDB_SWEEP_ID" not in os.environ:  # an agent has one run in W&B, which is the training
        run.make("tracking", Tracker).start(facts).finish(target)  # type: ignore[type-abstract]
    return result


def target_of(folder: Path, cfg: Config, checkpoint: Path | None) -> Path:
    """Return the folder in which an evaluation of some weights is recorded."""
    weights = checkpoint or folder / WEIGHTS
    identity = {**config.identity(cfg), "weights": weights.name, "sha256": _sha256(weights)}
    return folder / "evaluations" / config.digest(identity)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def find_run(name: str) -> tuple[Path, Path | None]:
    """Return the folder of a run, and the checkpoint if `name` is the path of one.

    Raises:
        UsageError: It is no run and no checkpoint. The message suggests the run with the most similar name.
    """
    try:
        path = Path(name).expanduser()
        if path.is_file() and path.suffix == ".ckpt":
            folder, checkpoint = path.resolve().parent.parent, path.resolve()
        else:
            folder, checkpoint = (path if path.is_dir() else runs_root() / name), None
        found = (folder / RESULT).is_file()
    except (OSError, RuntimeError) as error:  # the name is too long, or its home folder does not exist
        raise UsageError(f"{name} is not a run; {getattr(error, 'strerror', None) or error}") from None
    if not found:
        if folder.is_dir() and (folder / "config.yaml").is_file():
            raise UsageError(f"{folder} has no record yet: the run is not done")
        known = [run.name for run in runs_root().glob("*") if (run / RESULT).is_file()]
        raise UsageError(f"{name} is not a run; {nearest(Path(name).name, known)}")
    return folder, checkpoint


def refuse_training(given: Config) -> None:
    """Check that the keys a user gives change only how a run is evaluated.

    Raises:
        UsageError: A key says how the run was trained.
    """
    for group, keys in given.items():
        allowed = {"evaluation": None, "tracking": None, "trainer": _PROCESSES, "data": _DATA_FILES}
        if group not in allowed:
            raise UsageError(f"{group}: evaluate does not change how a run was trained; {nearest(group, allowed)}")
        for key in keys:
            if (valid := allowed[group]) is not None and key not in valid:
                raise UsageError(
                    f"{group}.{key}: evaluate does not change how a run was trained; {nearest(key, valid)}"
                )


def recorded_configuration(
    recorded: Mapping[str, Any], given: Config, catalogue: Catalogue, *, trust: bool
) -> tuple[Config, Catalogue]:
    """Return the recorded configuration with the keys that a user gives, and its catalogue.

    Raises:
        UsageError: The recorded configuration is not complete, or a key is refused.
    """
    missing = [key for key in _NEEDED if key not in recorded["cfg"]]
    if missing:
        raise UsageError(f"the recorded configuration has no {missing[0]}")
    cfg, catalogue = config.load_recorded(recorded["cfg"], catalogue, trust=trust)
    # The devices of the training are not those of the evaluation.
    trainer = {key: value for key, value in cfg["trainer"].items() if key not in _PROCESSES}
    # Only the kind of tracking is kept: the account of the training need not be that of the evaluation.
    layers = {key: cfg[key] for key in ("data", "evaluation")}
    layers |= {"trainer": trainer, "tracking": {"name": cfg["tracking"]["name"]}}
    for group, layer in layers.items():
        cfg[group] = config.resolve_group(group, group, [layer, given.get(group, {})], catalogue)
    return config.check(cfg, catalogue, only=(*_NEEDED, "tracking")), catalogue


def _load_weights(
    model: nn.Module, folder: Path, recorded: Mapping[str, Any], checkpoint: Path | None
) -> dict[str, Any]:
    """Load the recorded weights, or those of a checkpoint, and return the record's entry for them."""
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
        path = checkpoint
    else:
        path = folder / WEIGHTS
        state, digest = _read_safetensors(path)
        scored = recorded["checkpoint"]
        if digest != scored.get("weights_sha256"):
            raise UsageError(f"{path} is not the file that was recorded: its sha256 is {digest[:16]}...")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit the recorded model: {' '.join(str(error).split())[:200]}") from None
    if checkpoint is not None and not all(isinstance(scored[key], int) for key in ("epoch", "step")):
        raise UsageError(f"checkpoint {path} is not a checkpoint: its epoch or step is not a number")
    return scored


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        content = path.read_bytes()
        return safetensors.torch.load(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # safetensors raises an error of its own, which is not a ValueError
        raise UsageError(f"{path} is not a file of weights: {error}") from None
