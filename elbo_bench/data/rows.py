"""The rows of a split, in memory or read from a file when they are asked for, and facts measured over all of them."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from elbo_bench.progress import ProgressLine

_CHUNK_VALUES = 1_000_000
"""Values that are looked at in one go."""


@runtime_checkable
class Rows(Protocol):
    """Examples by number. A tensor is one; so is what reads them from a file."""

    @property
    def shape(self) -> torch.Size:
        """`[N, *data]`."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, ids: Int64[Tensor, " B"], /) -> Shaped[Tensor, "B *data"]:
        """Return some examples, as bytes or as floating-point numbers."""
        ...


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is measured in one pass over rows.

    Attributes:
        mean: Of each value, `[*data]`.
        least: The least value; NaN if any is.
        most: The greatest one.
        whole: Whether all are whole numbers.
    """

    mean: Float[Tensor, "*data"]
    least: float
    most: float
    whole: bool

    @property
    def finite(self) -> bool:
        """Whether every value is a number, and none is infinite."""
        return math.isfinite(self.least) and math.isfinite(self.most)


def chunks(rows: Rows, title: str = "") -> Iterator[Shaped[Tensor, "B *data"]]:
    """Yield rows in their order, some at a time, with a progress line if they come from a file."""
    size = max(1, _CHUNK_VALUES // max(1, math.prod(rows.shape[1:])))
    in_memory = isinstance(rows, Tensor)
    with ProgressLine(title or "reading", len(rows), enabled=not in_memory and len(rows) > 20 * size) as line:
        for start in range(0, len(rows), size):
            stop = min(start + size, len(rows))
            yield rows[start:stop] if isinstance(rows, Tensor) else rows[torch.arange(start, stop)]
            line.update(stop)


def summarise(rows: Rows, title: str = "") -> Summary:
    """Measure all rows, each of which is read once; sums are in float64, and exact where rows are bytes."""
    total = torch.zeros(rows.shape[1:], dtype=torch.float64)
    least, most, whole = math.inf, -math.inf, True
    for chunk in chunks(rows, title):
        low, high = (float(end) for end in torch.aminmax(chunk))
        # NaN is both the least and the greatest of its chunk, and stays so.
        least, most = (low if math.isnan(low) else min(least, low)), (high if math.isnan(high) else max(most, high))
        if math.isnan(low):
            return Summary(total, low, high, whole=False)
        if chunk.is_floating_point():
            whole = whole and torch.equal(chunk, chunk.round())
            total += chunk.sum(0, dtype=torch.float64)
        else:
            # Exact: a million bytes sum to less than 2^32. torch would sum them in 64 bits, at a tenth of the speed.
            total += torch.from_numpy(chunk.numpy().sum(0, dtype=np.uint32).astype(np.float64))
    return Summary(total / max(1, len(rows)), least, most, whole)
