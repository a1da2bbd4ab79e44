"""Building what a configuration names, and scoring it: what training and evaluating have in common."""

import contextlib
import dataclasses
import hashlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from elbo_bench import config
from elbo_bench.apps.fitting import check_support, left_out, rehearse
from elbo_bench.catalogue import Catalogue, Config
from elbo_bench.data.access import AsIs
from elbo_bench.data.dataset import Dataset, DataSource, tensor_sha256
from elbo_bench.data.files import data_root, naming_set
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import UsageError, memory_problem
from elbo_bench.evaluation import Evaluation, Evaluator
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.evaluation.data_units import beside_truth, in_bits
from elbo_bench.evaluation.evaluator import Bound, Request
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.progress import ProgressLine
from elbo_bench.ranks import started_by_others
from elbo_bench.results.provenance import provenance
from elbo_bench.results.record import SCHEMA_VERSION
from elbo_bench.tracking.tracker import RunFacts
from elbo_bench.training.options import TrainerOptions

T = TypeVar("T")
BLOCKS = ".blocks"


@dataclasses.dataclass(frozen=True)
class Components:
    """The parts of a run, built from a checked configuration.

    Attributes:
        cfg: The configuration.
        source: Where the data came from, with the batch size.
        dataset: The data.
        model: The model, initialised from the run's seed.
        objective: The bound that is trained with.
        evaluator: How it is evaluated.
        bounds: What is evaluated beside the evaluator's own: `"bound"`, trained with, unless it is `left_out`, and what
            the evaluator names.
        latents_decoded: Latents that one value of the objective decodes for each example.
    """

    cfg: Config
    source: DataSource
    dataset: Dataset
    model: nn.Module
    objective: Objective
    evaluator: Evaluator
    bounds: dict[str, Bound]
    latents_decoded: int

    @classmethod
    def build(cls, cfg: Config, catalogue: Catalogue) -> "Components":
        """Build every part and try the objective on two examples.

        Raises:
            UsageError: A part refuses its values, or the parts do not fit together.
        """
        source = make("data", DataSource, cfg, catalogue)  # type: ignore[type-abstract]
        with _enough_memory(f"data={cfg['data']['name']}"), naming_set(cfg["data"]["name"]):
            dataset = source.load(data_root())
        size = dataset.info.num_train
        objective = make("objective", Objective, cfg, catalogue, num_train=size)  # type: ignore[type-abstract]
        evaluator = make("evaluation", Evaluator, cfg, catalogue)  # type: ignore[type-abstract]
        bounds: dict[str, Bound] = {} if left_out(objective, evaluator) else {"bound": objective}
        for name in evaluator.objective_names:
            node = config.resolve_group("evaluation.objectives", "objective", [{"name": name}], catalogue)
            named = make("objective", Objective, {"objective": node}, catalogue, num_train=size)  # type: ignore[type-abstract]
            if reason := left_out(named, evaluator):
                raise UsageError(f"evaluation.objectives names {name}: {reason}")
            bounds[name] = named
        try:
            evaluator.check(bounds)
        except ValueError as error:
            raise UsageError(f"evaluation.{error}") from None
        with torch.random.fork_rng([]):  # models are made on the CPU
            torch.manual_seed(Noise(cfg["seed"], "init").torch_seed())
            model = make("model", nn.Module, cfg, catalogue, info=dataset.info)
        with _enough_memory(f"objective={cfg['objective']['name']}"):
            decoded = rehearse(cfg, dataset, cast("LatentVariableModel", model), objective)
            check_support(cfg, dataset, cast("LatentVariableModel", model))
        return cls(cfg, source, dataset, model, objective, evaluator, bounds, decoded)

    def split(self) -> tuple[Tensor, Tensor]:
        """Return the examples to be scored and their numbers within the split.

        Raises:
            UsageError: The split has fewer examples than are asked for.
        """
        split, wanted = self.evaluator.split, self.evaluator.num_examples
        size = len(getattr(self.dataset, split))
        if wanted is not None and wanted > size:
            raise UsageError(f"evaluation.num_examples={wanted}: the {split} split has {size} examples")
        return self.dataset.observations(split, wanted, seed=self.seed)

    @property
    def seed(self) -> int:
        """The seed of the evaluation."""
        return int(self.cfg["seed"] if self.evaluator.seed is None else self.evaluator.seed)

    def score(self, folder: Path) -> tuple[Evaluation, float]:
        """Evaluate the model as it is; return what was measured and the seconds it took, on every rank.

        Args:
            folder: Where finished blocks are kept until `discard_blocks`, so that a killed evaluation goes on.

        Raises:
            UsageError: The evaluator refuses the model.
            RunFailedError: What was measured is not finite; the line names the example.
        """
        x, ids = self.split()
        evaluator = self.evaluator
        started = time.monotonic()
        rank, world_size = rank_and_world_size()
        title = f"evaluating {len(x)} {evaluator.split} examples ({self.cfg['evaluation']['name']})"
        with ProgressLine(title, None, enabled=rank == 0) as line:
            request = Request(
                seed=self.seed,
                ids=ids,
                bounds=self.bounds,
                progress=lambda done, mine: line.update(done * world_size, total=mine * world_size),
                folder=folder / BLOCKS / config.digest({**config.identity(self.cfg), **self._code_and_weights()}),
            )
            try:
                evaluation = evaluator.evaluate(cast("LatentVariableModel", self.model), x, request)
            except ValueError as error:
                raise UsageError(f"evaluation={self.cfg['evaluation']['name']}: {error}") from None
        return self._in_units_of_the_data(evaluation, x), time.monotonic() - started

    def _in_units_of_the_data(self, evaluation: Evaluation, x: Tensor) -> Evaluation:
        volume, truth = self.dataset.log_volume(x), self.dataset.truth
        if volume is not None:
            evaluation = in_bits(evaluation, volume.numpy(), self.dataset.info.num_dims)
        return evaluation if truth is None else beside_truth(evaluation, truth(x).numpy())

    def _code_and_weights(self) -> dict[str, Any]:
        """Return what, beside the configuration, the rows of a block depend on."""
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        return {"weights": hashlib.sha256(safetensors.torch.save(state)).hexdigest(), "code": provenance()}

    def _scored_sha256(self) -> str | None:
        """Return the sha256 of the observations that are scored; None if each evaluation draws others."""
        redrawn = self.evaluator.split == "test" and not isinstance(self.dataset.test_access, AsIs)
        return None if redrawn else tensor_sha256(self.split()[0])

    def result(
        self, run_id: str, evaluation: Evaluation, checkpoint: dict[str, Any], compute: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the record of an evaluation: the content of `result.json`."""
        objective = {key: value for key, value in self.cfg["objective"].items() if key != "target"}
        declared = {"scope": self.objective.scope, "latents": self.objective.latents}
        unusual = {key: value for key, value in declared.items() if value != getattr(Objective, key)}
        reason = left_out(self.objective, self.evaluator)
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "status": "done",
            "data": {
                **self.dataset.record(),
                **self.source.credits(),
                "split": self.evaluator.split,
                "num_examples": len(evaluation.examples["id"]),
                "scored_sha256": self._scored_sha256(),
            },
            "model": self.cfg["model"]["name"],
            "objective": {
                **objective,
                "samples_required": self.latents_decoded,
                "direction": self.objective.direction,
                **unusual,
            },
            "seed": self.cfg["seed"],
            "cfg": self.cfg,
            "metrics": evaluation.metrics,
            "truth": {
                "tier": evaluation.tier,
                "estimator": evaluation.estimator,
                "num_samples": self.evaluator.samples,
            },
            "diagnostics": evaluation.diagnostics | ({"bound_left_out": reason} if reason else {}),
            "checkpoint": checkpoint,
            "compute": {
                **compute,
                "evaluate_decoder_evaluations": evaluation.decoder_evaluations,
                "peak_memory_bytes": peak_memory(),
            },
            "provenance": {**provenance(), "threads": torch.get_num_threads(), "accelerator": accelerator_name()},
        }


def discard_blocks(folder: Path) -> None:
    """Remove the finished blocks of an evaluation, whose record stands or which is to be computed anew."""
    shutil.rmtree(folder / BLOCKS, ignore_errors=True)


def make(group: str, kind: type[T], cfg: Config, catalogue: Catalogue, **injected: Any) -> T:
    """Build one group of a checked configuration, which must give an instance of `kind`.

    Raises:
        UsageError: The component refuses its values, or is of another kind.
    """
    with _enough_memory(f"{group}={cfg[group]['name']}"):
        made = config.make(group, cfg[group], catalogue, **injected)
    if not isinstance(made, kind):
        raise UsageError(f"{group}={cfg[group]['name']}: it is no {kind.__module__}.{kind.__qualname__}")
    return made


@contextlib.contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Say which part of a run does not fit into memory.

    Raises:
        UsageError: It does not.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        problem = memory_problem(error)
        if problem is None:
            raise
        raise UsageError(f"{what}: too large for this machine: {problem}") from None


def check_launch(options: TrainerOptions, strategy: object) -> None:
    """Refuse what Lightning accepts and this machine, or a run, cannot do; nothing has been started yet.

    Raises:
        UsageError: There are far more processes than cores, they would be forked, or others than were started.
    """
    if any(word in options.strategy for word in ("spawn", "fork", "notebook")):
        raise UsageError(f"trainer.strategy={options.strategy}: a run cannot fork or spawn; did you mean 'ddp'?")
    devices: list[torch.device] = getattr(strategy, "parallel_devices", None) or []
    cores = os.cpu_count() or 1
    if len(devices) > 4 * cores and devices[0].type == "cpu":
        raise UsageError(f"trainer.devices={options.devices}: so many processes on {cores} cores; at most {4 * cores}")
    started, wanted = started_by_others(), max(1, len(devices)) * options.num_nodes
    if started not in (None, wanted):
        asked = f"trainer.devices={options.devices} trainer.num_nodes={options.num_nodes}"
        raise UsageError(f"{asked} make {wanted} processes, and {started} were started")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if started is None and options.num_nodes > 1 and missing:
        how = f"start it by torchrun or srun, or set {', '.join(missing)} on each machine"
        raise UsageError(f"trainer.num_nodes={options.num_nodes}: {how}")


def run_facts(cfg: Config, folder: Path, job_type: str) -> RunFacts:
    """Return what a tracker is told of a run before it starts; replicates with other seeds share a group."""
    slug, group = config.run_id(cfg), config.identity({**cfg, "seed": None})
    name = slug.rsplit("-s", 1)[0]
    return RunFacts(folder.name, folder, f"{name}-{config.digest(group)}", job_type, cfg)


def peak_memory() -> int:
    """Return the most memory that this process held at once, in bytes: the accelerator's if it used one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def accelerator_name() -> str | None:
    """Return the name of the GPU, if there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
