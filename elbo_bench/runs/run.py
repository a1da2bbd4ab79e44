"""A run: the parts that a configuration names, built and checked; how it is evaluated, and what its record says."""

import contextlib
import dataclasses
import functools
import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.data.access import AsIs
from elbo_bench.data.dataset import Dataset, DataSource, tensor_sha256
from elbo_bench.data.reading.files import data_root, suggest_fetch
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import UsageError, memory_problem
from elbo_bench.evaluation import Evaluation, Evaluator
from elbo_bench.evaluation.blocks import rank_and_world_size
from elbo_bench.evaluation.data_units import beside_truth, in_bits
from elbo_bench.evaluation.evaluator import Bound, Request
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.progress import ProgressLine
from elbo_bench.results.provenance import provenance
from elbo_bench.results.record import SCHEMA_VERSION
from elbo_bench.runs.fitting import check_support, excluded, latents_decoded
from elbo_bench.tracking.tracker import RunFacts
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.training.optimizers import Optimizer
from elbo_bench.training.options import TrainerOptions

if TYPE_CHECKING:
    import lightning.pytorch as pl

T = TypeVar("T")
_BLOCKS = ".blocks"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The parts of a run, built from a checked configuration.

    Attributes:
        cfg: The configuration.
        catalogue: The names that a configuration may use.
        source: Where the data come from, with the batch size.
        dataset: The data.
        model: The model. The run's seed initialises it.
        objective: The bound that the run is trained with.
        evaluator: How the run is evaluated.
        bound: The objective if the evaluator can evaluate it, or else None.
        bounds: Further bounds, by name, that the evaluator's keys name.
        latents_decoded: Latents that the objective decodes for one example.
    """

    cfg: Config
    catalogue: Catalogue
    source: DataSource
    dataset: Dataset
    model: nn.Module
    objective: Objective
    evaluator: Evaluator
    bound: Bound | None
    bounds: dict[str, Bound]
    latents_decoded: int

    @classmethod
    def build(cls, cfg: Config, catalogue: Catalogue, dataset: Dataset | None = None) -> "Run":
        """Build every part, and compute the objective on two examples.

        Args:
            cfg: A checked configuration.
            catalogue: The names that a configuration may use.
            dataset: The data, if they are loaded already.

        Raises:
            UsageError: A part refuses its values, or the parts do not fit together.
        """
        source = make("data", DataSource, cfg, catalogue)  # type: ignore[type-abstract]
        if dataset is None:
            with _enough_memory(f"data={cfg['data']['name']}"), suggest_fetch(cfg["data"]["name"]):
                dataset = source.load(data_root())
        size = dataset.info.num_train
        objective = make("objective", Objective, cfg, catalogue, num_train=size)  # type: ignore[type-abstract]
        evaluator, bounds = _make_evaluator(cfg, catalogue, objective, dataset)
        with torch.random.fork_rng([]):  # models are made on the CPU
            torch.manual_seed(Noise(cfg["seed"], "init").torch_seed())
            model = make("model", nn.Module, cfg, catalogue, info=dataset.info)
        with _enough_memory(f"objective={cfg['objective']['name']}"):
            decoded = latents_decoded(cfg, dataset, cast("LatentVariableModel", model), objective)
            check_support(cfg, dataset, cast("LatentVariableModel", model))
        bound = None if excluded(objective, evaluator) else objective
        return cls(cfg, catalogue, source, dataset, model, objective, evaluator, bound, bounds, decoded)

    def check_evaluation(self, evaluation: Config) -> None:
        """Check that this run can be evaluated by another evaluator. Nothing is computed.

        Raises:
            UsageError: The evaluator refuses its values or the run's bounds, or the split is too small.
        """
        _make_evaluator({**self.cfg, "evaluation": evaluation}, self.catalogue, self.objective, self.dataset)

    def make(self, group: str, kind: type[T], **injected: Any) -> T:
        """Build a group of the run's configuration. See `make`."""
        return make(group, kind, self.cfg, self.catalogue, **injected)

    @property
    def id(self) -> str:
        """The name of the run and of its folder."""
        return config.run_id(self.cfg)

    @property
    def seed(self) -> int:
        """The seed of the evaluation."""
        return int(self.cfg["seed"] if self.evaluator.seed is None else self.evaluator.seed)

    @functools.cached_property
    def module(self) -> "pl.LightningModule":
        """The Lightning module that trains the model.

        Raises:
            UsageError: The configured class is not a Lightning module, or has another model.
        """
        import lightning.pytorch as pl  # Lightning takes seconds to import

        name = self.cfg["module"]["name"]
        module = config.make(
            "module",
            self.cfg["module"],
            self.catalogue,
            model=self.model,
            objective=self.objective,
            optimizer=self.make("optimizer", Optimizer),  # type: ignore[type-abstract]
            info=self.dataset.info,
            seed=self.cfg["seed"],
        )
        if not isinstance(module, pl.LightningModule) or not isinstance(getattr(module, "model", None), nn.Module):
            raise UsageError(f"module={name}: it must be a LightningModule with an attribute `model`")
        if module.model is not self.model:
            raise UsageError(f"module={name}: its `model` must be the one that it is given")
        return module

    def decoder_evaluations(self, options: TrainerOptions) -> DecoderEvaluations:
        """Return the count of latents that a training decodes. A warm-up may change K."""
        from elbo_bench.training.module import BoundModule  # Lightning takes seconds to import

        module, sampled = self.module, self.objective.latents == "sampled"
        warmed = module if isinstance(module, BoundModule) and sampled else None
        return DecoderEvaluations(
            num_train=len(self.dataset.train),
            batch_size=self.source.batch_size,
            per_example=self.latents_decoded,
            during_warmup=None if warmed is None else lambda epoch: warmed.ascended(epoch).samples_required,
            warmup_epochs=0.0 if warmed is None else warmed.warmup.end,
            accumulate=options.accumulate_grad_batches,
        )

    @property
    def num_scored(self) -> int:
        """Number of examples that the evaluation scores."""
        size = len(getattr(self.dataset, self.evaluator.split))
        return min(self.evaluator.num_examples or size, size)

    def scored_examples(self) -> tuple[Tensor, Tensor]:
        """Return the examples that the evaluation scores, `[N, *data]`, and their numbers in the split, `[N]`."""
        return self.dataset.observations(self.evaluator.split, self.evaluator.num_examples, seed=self.seed)

    def evaluate(self, folder: Path) -> tuple[Evaluation, float]:
        """Evaluate the model with its present weights. Return the evaluation and its seconds, on every rank.

        Args:
            folder: Finished blocks are saved here, so that a killed evaluation resumes. See `discard_blocks`.

        Raises:
            UsageError: The evaluator refuses the model.
            RunFailedError: An estimate is not finite. The message names the example.
        """
        x, ids = self.scored_examples()
        started = time.monotonic()
        rank, world_size = rank_and_world_size()
        name = self.cfg["evaluation"]["name"]
        # The estimates of a block depend on the configuration, the weights and the code.
        state = {key: value.detach().cpu().contiguous() for key, value in self.model.state_dict().items()}
        weights = hashlib.sha256(safetensors.torch.save(state)).hexdigest()
        identity = {**config.identity(self.cfg), "weights": weights, "code": provenance()}
        title = f"evaluating {len(x)} {self.evaluator.split} examples ({name})"
        with ProgressLine(title, None, enabled=rank == 0) as line:
            request = Request(
                seed=self.seed,
                ids=ids,
                trained_with=self.bound,
                bounds=self.bounds,
                progress=lambda done, mine: line.update(done * world_size, total=mine * world_size),
                folder=folder / _BLOCKS / config.digest(identity),
            )
            try:
                evaluation = self.evaluator.evaluate(cast("LatentVariableModel", self.model), x, request)
            except ValueError as error:
                raise UsageError(f"evaluation={name}: {error}") from None
        volume, truth = self.dataset.log_volume(x), self.dataset.truth
        if volume is not None:
            evaluation = in_bits(evaluation, volume.numpy(), self.dataset.info.num_dims)
        if truth is not None:
            evaluation = beside_truth(evaluation, truth(x).numpy())
        return evaluation, time.monotonic() - started

    def result(
        self, run_id: str, evaluation: Evaluation, checkpoint: dict[str, Any], compute: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the record of an evaluation: the content of `result.json`."""
        objective = {key: value for key, value in self.cfg["objective"].items() if key != "target"}
        declared = {"scope": self.objective.scope, "latents": self.objective.latents}
        unusual = {key: value for key, value in declared.items() if value != getattr(Objective, key)}
        reason = excluded(self.objective, self.evaluator)
        redrawn = self.evaluator.split == "test" and not isinstance(self.dataset.test_access, AsIs)
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "status": "done",
            "data": {
                **self.dataset.record(),
                **self.source.credits(),
                "split": self.evaluator.split,
                "num_examples": len(evaluation.examples["id"]),
                # None if each evaluation draws its own observations.
                "scored_sha256": None if redrawn else tensor_sha256(self.scored_examples()[0]),
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
            "diagnostics": evaluation.diagnostics | ({"bound_excluded": reason} if reason else {}),
            "checkpoint": checkpoint,
            "compute": {
                **compute,
                "evaluate_decoder_evaluations": evaluation.decoder_evaluations,
                "peak_memory_bytes": _peak_memory(),
            },
            "provenance": {
                **provenance(),
                "threads": torch.get_num_threads(),
                "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
        }


def _make_evaluator(
    cfg: Config, catalogue: Catalogue, objective: Objective, dataset: Dataset
) -> tuple[Evaluator, dict[str, Bound]]:
    """Return the evaluator, and the further bounds that its keys name.

    Raises:
        UsageError: The evaluator refuses its values or a bound, or the split has too few examples.
    """
    evaluator = make("evaluation", Evaluator, cfg, catalogue)  # type: ignore[type-abstract]
    bounds: dict[str, Bound] = {}
    for name in evaluator.objective_names:
        named = {"objective": config.resolve_group("evaluation.objectives", "objective", [{"name": name}], catalogue)}
        bound = make("objective", Objective, named, catalogue, num_train=dataset.info.num_train)  # type: ignore[type-abstract]
        if reason := excluded(bound, evaluator):
            raise UsageError(f"evaluation.objectives names {name}: {reason}")
        bounds[name] = bound
    trained_with = None if excluded(objective, evaluator) else objective
    try:
        evaluator.check(Request(trained_with=trained_with, bounds=bounds))
    except ValueError as error:
        raise UsageError(f"evaluation.{error}") from None
    size = len(getattr(dataset, evaluator.split))
    if evaluator.num_examples is not None and evaluator.num_examples > size:
        raise UsageError(
            f"evaluation.num_examples={evaluator.num_examples}: the {evaluator.split} split has {size} examples"
        )
    return evaluator, bounds


def discard_blocks(folder: Path) -> None:
    """Remove the finished blocks of an evaluation, after its record is written or before it is computed again."""
    shutil.rmtree(folder / _BLOCKS, ignore_errors=True)


def make(group: str, kind: type[T], cfg: Config, catalogue: Catalogue, **injected: Any) -> T:
    """Build the component that one group of a checked configuration names, such as the model.

    Raises:
        UsageError: The component refuses its values, or is not an instance of `kind`.
    """
    with _enough_memory(f"{group}={cfg[group]['name']}"):
        made = config.make(group, cfg[group], catalogue, **injected)
    if not isinstance(made, kind):
        raise UsageError(f"{group}={cfg[group]['name']}: it is no {kind.__module__}.{kind.__qualname__}")
    return made


@contextlib.contextmanager
def _enough_memory(what: str) -> Iterator[None]:
    """Raise a UsageError that names the part of a run if the block runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        problem = memory_problem(error)
        if problem is None:
            raise
        raise UsageError(f"{what}: too large for this machine: {problem}") from None


def run_facts(cfg: Config, folder: Path, job_type: str) -> RunFacts:
    """Return the facts that a tracker shows of a run. Runs that differ only in their seed share a group."""
    slug, group = config.run_id(cfg), config.identity({**cfg, "seed": None})
    name = slug.rsplit("-s", 1)[0]
    return RunFacts(folder.name, folder, f"{name}-{config.digest(group)}", job_type, cfg)


def _peak_memory() -> int:
    """Return the peak memory of this process in bytes. It is the GPU's if the process used one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
