"""The keys of an evaluation by importance sampling."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportanceOptions:
    """What an evaluation by importance sampling scores, and how finely.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
        split: Which split is scored.
        num_examples: How many of its examples, the head of a fixed random order; None is all of them.
        seed: Seed of the evaluation's random numbers; None is the run's.
        block_size: Examples in a block, the unit of work.
        chunk_size: Samples decoded at once for a block; memory grows with it and not with `num_samples`.
        workers: Threads of one process that score blocks side by side; their number changes no bit of a result.
    """

    num_samples: Annotated[int, Field(ge=2)] = 5000
    split: Literal["test", "validation", "train"] = "test"
    num_examples: PositiveInt | None = None
    seed: NonNegativeInt | None = None
    block_size: PositiveInt = 32
    chunk_size: PositiveInt = 64
    workers: PositiveInt | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
