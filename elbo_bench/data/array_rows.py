"""The rows of the user's array, and what their values are taken for: checked as they are read."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from elbo_bench.data.array_files import Stored
from elbo_bench.data.array_splits import Part
from elbo_bench.data.rows import chunks
from elbo_bench.errors import RunFailedError

GREY = ("dynamic", "fixed", "threshold")
LEVELS = ("levels", "dequantised", "logit")

_CHUNK_VALUES = 1_000_000
"""Values that are looked at in one go."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """What the values of an array are taken for.

    Attributes:
        values: The protocol, for messages.
        kind: `whole` numbers 0 .. top, which become bytes; in the `unit` interval; `real` numbers.
        top: The greatest whole number.
    """

    values: str
    kind: Literal["whole", "unit", "real"]
    top: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return torch.uint8 if self.kind == "whole" else torch.float32

    @property
    def wanted(self) -> str:
        """What values are to be."""
        return {
            "whole": f"whole numbers 0..{self.top}",
            "unit": "floating-point numbers in [0, 1]",
            "real": "numbers that are finite in float32",
        }[self.kind]

    def __call__(self, values: np.ndarray) -> tuple[Shaped[Tensor, "B *data"], np.ndarray]:
        """Return values as rows, and where they are not what they are to be, `[B, *data]`."""
        if self.kind == "whole":
            wrong = (values > self.top) | ~(values >= 0)  # the second is true of NaN, too
            if values.dtype.kind == "f":
                wrong |= values != np.floor(values)
            rows = np.where(wrong, np.uint8(0), values).astype(np.uint8) if wrong.any() else values.astype(np.uint8)
            return torch.from_numpy(rows), wrong
        with np.errstate(over="ignore"):
            rows = values.astype(np.float32)
        wrong = ~np.isfinite(rows) if self.kind == "real" else ~((rows >= 0) & (rows <= 1))
        return torch.from_numpy(rows), wrong


class ArrayRows:
    """Rows that are read from a file when they are asked for.

    A copy for another process has the file's name and not its content.

    Args:
        array: The array.
        part: Which of its rows.
        coding: What their values are taken for.
    """

    def __init__(self, array: Stored, part: Part, coding: Coding) -> None:
        self._array, self._part, self._coding = array, part, coding
        self._ids = part.ids()

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayRows, (self._array, self._part, self._coding)

    @property
    def shape(self) -> torch.Size:
        """`[N, *data]`."""
        return torch.Size((len(self._part), *self._array.shape[1:]))

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, ids: Int64[Tensor, " B"], /) -> Shaped[Tensor, "B *data"]:
        """Return some rows, as bytes or in float32.

        Raises:
            RunFailedError: They cannot be read, or a value is none of those; the line names the file and the row.
        """
        numbers = self._ids[ids].numpy()
        values = self._array.read(numbers)
        rows, wrong = self._coding(values)
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0])
            raise RunFailedError(
                f"{self._array.where(int(numbers[first[0]]))} holds {values[first]!s}, "
                f"but values={self._coding.values} takes {self._coding.wanted}"
            )
        return rows

    def in_memory(self, title: str) -> Shaped[Tensor, "N *data"]:
        """Return all rows, read with a progress line if they are many."""
        rows, start = torch.empty(self.shape, dtype=self._coding.dtype), 0
        for chunk in chunks(self, title):
            rows[start : start + len(chunk)] = chunk
            start += len(chunk)
        return rows


@dataclasses.dataclass(frozen=True)
class Content:
    """What an array holds.

    Attributes:
        dtype: As it lies in the file.
        least: The least value; NaN if any is.
        most: The greatest one.
        whole: Whether all are whole numbers.
    """

    dtype: np.dtype[Any]
    least: float
    most: float
    whole: bool

    @property
    def finite(self) -> bool:
        """Whether every value is a number, and none is infinite."""
        return math.isfinite(self.least) and math.isfinite(self.most)

    @classmethod
    def of(cls, arrays: Collection[Stored]) -> "Content":
        """Look at every value of some arrays.

        Raises:
            RunFailedError: Rows cannot be read.
        """
        least, most, whole, dtypes = [], [], True, []
        for array in arrays:
            dtypes.append(array.dtype)
            size = max(1, _CHUNK_VALUES // math.prod(array.shape[1:]))
            for start in range(0, array.shape[0], size):
                values = array.read(np.arange(start, min(start + size, array.shape[0])))
                least.append(float(values.min()))
                most.append(float(values.max()))
                whole = whole and (values.dtype.kind != "f" or bool((values == np.floor(values)).all()))
        return cls(dtypes[0], float(np.min(least)), float(np.max(most)), whole)

    def __str__(self) -> str:
        """Return what they hold, and which `values` suit that."""
        real = self.dtype.kind == "f"
        unit = self.least >= 0 and self.most <= 1
        suits: tuple[str, ...] = ()
        if self.whole and unit:
            suits = ("binary",)
        elif self.whole and self.least >= 0 and self.most <= 255:
            suits = LEVELS if real else (*LEVELS, *GREY)
        elif self.finite and not self.whole:
            suits = ("continuous", *GREY) if unit else ("continuous",)
        holds = f"{self.dtype} values {self.least:g}..{self.most:g}{', all whole' if self.whole and real else ''}"
        if not self.finite:
            return f"{holds}: NaN and infinite values are no observations"
        if not suits:
            return f"{holds}: scale them to 0..255 for levels, or add noise and take continuous"
        return f"{holds}, which {', '.join(suits)} would suit"
