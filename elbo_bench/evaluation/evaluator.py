"""What an evaluator is: its keys, what it is asked, and what it answers."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws, LatentVariableModel
from elbo_bench.typed import check_fields

Tier = Literal["exact", "sandwiched", "importance", "lower-bound-only", "none"]
"""What an estimate of log p(x) stands on; `"none"` where an evaluator makes none."""


class UnsuitableModelError(ValueError):
    """A model is of a kind that an evaluator cannot score, whatever the example."""


@runtime_checkable
class Bound(Protocol):
    """A function of `Draws` to be evaluated; every objective is one."""

    @property
    def samples_required(self) -> int:
        """Samples that one value takes."""
        ...

    def __call__(self, draws: Draws) -> Tensor:
        """Return a value in nats for each example."""
        ...


@dataclasses.dataclass(frozen=True)
class Request:
    """What the floor above asks of an evaluator, beside the evaluator's own keys.

    Attributes:
        seed: Seed of the random numbers.
        ids: Number of each example in its data set; 0 .. N-1 if None.
        bounds: Bounds, by the name that their columns get; a run's own is `"bound"`.
        progress: Called with (units of work done, units of this rank).
        folder: Where finished blocks are kept, so that an evaluation that was killed goes on; None keeps none.
    """

    seed: int = 0
    ids: Int[Tensor, " N"] | None = None
    bounds: Mapping[str, Bound] = dataclasses.field(default_factory=dict)
    progress: Callable[[int, int], None] | None = None
    folder: Path | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        examples: One row an example: `id`, and each estimate with its Monte Carlo error in `<name>_se`.
        metrics: Means over the examples: `{name: {value, se, se_mc, n, unit}}`. `se` is the standard error over the
            finite set of examples, `se_mc` the part of it that more samples would remove.
        tier: What the estimate of log p(x) stands on.
        estimator: How it was made, in a few words.
        diagnostics: How much of it can be trusted; plain values, lists and mappings.
        decoder_evaluations: Latents decoded, for all examples together; a gradient counts twice.
    """

    examples: dict[str, np.ndarray]
    metrics: dict[str, dict[str, Any]]
    tier: Tier
    estimator: str
    diagnostics: dict[str, Any]
    decoder_evaluations: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(abc.ABC):
    """A way to score a model; its fields are its configuration.

    Attributes:
        split: Which split is scored.
        num_examples: How many of its examples, the head of a fixed random order; None is all of them.
        seed: Seed of the evaluation's random numbers; None is the run's.
        block_size: Examples in a block, the unit of work.
        workers: Threads of one process that score blocks side by side; their number changes no bit of a result.
    """

    split: Literal["test", "validation", "train"] = "test"
    num_examples: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    block_size: PositiveInt = 32
    workers: PositiveInt | Literal["auto"] = "auto"

    ranks: ClassVar[bool] = False
    """Whether a run can be trained with it: it gives log p(x) and the ELBO of the split, by which runs are ranked."""
    whole_batches: ClassVar[bool] = False
    """Whether it draws batches of its own, and may be given objectives that see their whole batch."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def objective_names(self) -> tuple[str, ...]:
        """Objectives, beside the run's own, that the floor above builds and passes in as bounds."""
        return ()

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """The K that a record states: samples, chains or draws for each example."""

    def check(self, bounds: Mapping[str, Bound]) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse bounds that cannot be evaluated, before anything is computed.

        Raises:
            ValueError: One cannot; the line says which key must change.
        """

    @abc.abstractmethod
    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples; the same on every rank, and the same bytes on any number of ranks and threads.

        Raises:
            ValueError: The model, or the keys, do not allow it; nothing was computed.
            RunFailedError: A number is not finite; the line names the example.
        """
