"""The base class of evaluators, what one is given (`Request`) and what it returns (`Evaluation`)."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Int, Shaped
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.config.typed import check_fields
from elbo_bench.draws import Draws, LatentVariableModel
from elbo_bench.evaluation.estimate import Columns, Scores
from elbo_bench.metric import Metric

Tier = Literal["exact", "sandwiched", "importance", "lower-bound-only", "none"]
"""How reliable an estimate of log p(x) is; `"none"` if an evaluator gives none."""


class UnsuitableModelError(ValueError):
    """An evaluator cannot score this kind of model, for any example."""


@runtime_checkable
class Bound(Protocol):
    """A function of `Draws` that can be evaluated, such as an objective."""

    @property
    def samples_required(self) -> int:
        """Samples for one value."""
        ...

    def __call__(self, draws: Draws) -> Tensor:
        """Return a value in nats for each example."""
        ...


@dataclasses.dataclass(frozen=True)
class Request:
    """What one evaluation is given, beside the evaluator's own keys.

    Attributes:
        seed: Seed of the random numbers.
        ids: Number of each example in its data set; 0 .. N-1 if None.
        trained_with: The objective that the run was trained with. Its estimates are `bound` and `bound_gap`.
        bounds: Further bounds by name. The estimates of a bound `x` are `bounds/x` and `gaps/x`.
        progress: Called with (units of work done, units of this process).
        folder: Folder of finished blocks, from which a killed evaluation goes on; None keeps none.
    """

    seed: int = 0
    ids: Int[Tensor, " N"] | None = None
    trained_with: Bound | None = None
    bounds: Mapping[str, Bound] = dataclasses.field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None
    folder: Path | None = None

    def scored_bounds(self) -> "list[ScoredBound]":
        """Return every bound that is evaluated, with the names of its estimates."""
        own = [] if self.trained_with is None else [ScoredBound(self.trained_with, "bound", "bound", "bound_gap")]
        return own + [ScoredBound(bound, name, f"bounds/{name}", f"gaps/{name}") for name, bound in self.bounds.items()]


@dataclasses.dataclass(frozen=True)
class ScoredBound:
    """A bound that is evaluated, with the names of its estimates.

    Attributes:
        bound: The bound.
        name: Its name in messages and in the stream of its random numbers.
        estimate: Name of its value.
        gap: Name of log p(x) - value.
    """

    bound: Bound = dataclasses.field(hash=False)
    name: str
    estimate: str
    gap: str


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        scores: Estimates and columns of every example, with the column `id`.
        metrics: Means over the examples, by name.
        tier: How reliable the estimate of log p(x) is.
        estimator: How log p(x) was estimated, in a few words.
        diagnostics: How far the estimates can be trusted: plain values, lists and mappings.
        decoder_evaluations: Latents decoded, for all examples together; a gradient counts twice.
    """

    scores: Scores
    metrics: dict[str, Metric]
    tier: Tier
    estimator: str
    diagnostics: dict[str, Any]
    decoder_evaluations: int

    @property
    def examples(self) -> Columns:
        """Columns by name, one row an example: an estimate NAME is the columns `NAME` and `NAME_se_mc`."""
        return self.scores.flat()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(abc.ABC):
    """A way to score a model; its fields are its configuration.

    Attributes:
        split: The split to score.
        num_examples: Number of its examples, the first ones of a fixed random order; None is all.
        seed: Seed of the evaluation's random numbers; None is the run's seed.
        block_size: Examples in a block, the unit of work.
        workers: Threads of one process that score blocks. Their number does not change the result.
    """

    split: Literal["test", "validation", "train"] = "test"
    num_examples: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    block_size: PositiveInt = 32
    workers: PositiveInt | Literal["auto"] = "auto"

    ends_training: ClassVar[bool] = False
    """Whether `train` may end with this evaluator. It must give log p(x) and the ELBO, by which runs are compared."""
    allows_batch_scope: ClassVar[bool] = False
    """Whether it evaluates objectives whose value for an example depends on the other examples of the batch."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Names of objectives that the evaluator needs as `Request.bounds`, beside the run's own."""
        return ()

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """Samples or chains for each example: the `num_samples` of a record."""

    def check(self, request: Request) -> None:  # noqa: B027 - most evaluators have nothing to refuse
        """Refuse bounds that cannot be evaluated, before anything is computed.

        Raises:
            ValueError: A bound cannot be evaluated. The message names the key that must change.
        """

    @abc.abstractmethod
    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples: the same bytes on every process, for any number of processes and threads.

        Raises:
            ValueError: The evaluator cannot score this model with these keys. Nothing was computed.
            RunFailedError: A number is not finite. The message names the example.
        """
