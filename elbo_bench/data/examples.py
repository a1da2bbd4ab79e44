"""Examples of a split, in memory or read from a file on demand, and statistics over all of them."""

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
"""Values in one chunk."""


@runtime_checkable
class Examples(Protocol):
    """Stored examples, looked up by number. A tensor is one kind; a reader of a file is another."""

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
    """Statistics of examples, from one pass over them.

    Attributes:
        mean: Mean of each value, `[*data]`.
        least: The smallest value. NaN if any value is NaN.
        most: The largest value. NaN if any value is NaN.
        integers: Whether all values are integers.
    """

    mean: Float[Tensor, "*data"]
    least: float
    most: float
    integers: bool

    @property
    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return math.isfinite(self.least) and math.isfinite(self.most)


def chunks(examples: Examples, title: str = "reading") -> Iterator[Shaped[Tensor, "B *data"]]:
    """Yield examples in their order, some at a time. Long reading from a file shows a progress line."""
    size = max(1, _CHUNK_VALUES // max(1, math.prod(examples.shape[1:])))
    in_memory = isinstance(examples, Tensor)
    with ProgressLine(title, len(examples), enabled=not in_memory and len(examples) > 20 * size) as line:
        for start in range(0, len(examples), size):
            stop = min(start + size, len(examples))
            yield examples[start:stop] if isinstance(examples, Tensor) else examples[torch.arange(start, stop)]
            line.update(stop)


def summarise(examples: Examples, title: str = "reading") -> Summary:
    """Return statistics of all examples. Each is read once. Sums are in float64, and exact for bytes."""
    total = torch.zeros(examples.shape[1:], dtype=torch.float64)
    least, most, integers = math.inf, -math.inf, True
    for chunk in chunks(examples, title):
        low, high = (float(end) for end in torch.aminmax(chunk))
        if math.isnan(low):
            return Summary(total, low, high, integers=False)
        least, most = min(least, low), max(most, high)
        if chunk.is_floating_point():
            integers = integers and torch.equal(chunk, chunk.round())
            total += chunk.sum(0, dtype=torch.float64)
        else:
            # Exact: a million bytes sum to less than 2^32. torch would sum them in 64 bits, ten times as slowly.
            total += torch.from_numpy(chunk.numpy().sum(0, dtype=np.uint32).astype(np.float64))
    return Summary(total / max(1, len(examples)), least, most, integers)
