"""Examples of the user's array, and the check that their values are what `data.values` says."""

import dataclasses
from collections.abc import Collection
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from elbo_bench.data.examples import chunks, summarise
from elbo_bench.data.own.array_files import Stored
from elbo_bench.errors import RunFailedError

GREY = ("dynamic", "fixed", "threshold")
LEVELS = ("levels", "dequantised", "logit")


@dataclasses.dataclass(frozen=True)
class ValueCheck:
    """Which values `data.values` allows.

    Attributes:
        values: The name of the protocol, for messages.
        kind: `integer`: 0 .. top, stored as bytes; `unit`: in [0, 1]; `real`: finite; `any`: not checked, in float64.
        top: The largest integer.
    """

    values: str
    kind: Literal["integer", "unit", "real", "any"]
    top: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Type of the examples."""
        return {"integer": torch.uint8, "any": torch.float64}.get(self.kind, torch.float32)

    @property
    def wanted(self) -> str:
        """Which values are allowed, in words."""
        return {
            "integer": f"integers 0..{self.top}",
            "unit": "floating-point numbers in [0, 1]",
            "real": "numbers that are finite in float32",
            "any": "numbers",
        }[self.kind]

    def __call__(self, values: np.ndarray) -> tuple[Shaped[Tensor, "B *data"], np.ndarray]:
        """Return values as a tensor of `dtype`, and a mask of the values that are not allowed, `[B, *data]`."""
        if self.kind == "integer":
            wrong = (values > self.top) | ~(values >= 0)  # the second part is true for NaN, too
            if values.dtype.kind == "f":
                wrong |= values != np.floor(values)
            return torch.from_numpy(np.where(wrong, np.uint8(0), values).astype(np.uint8)), wrong
        with np.errstate(over="ignore"):
            converted: np.ndarray = values.astype(np.float64 if self.kind == "any" else np.float32)
        if self.kind == "unit":
            wrong = ~((converted >= 0) & (converted <= 1))
        else:
            wrong = ~np.isfinite(converted) & (self.kind == "real")
        return torch.from_numpy(converted), wrong


class ArrayExamples:
    """Some examples of an array, read from its file on demand.

    Args:
        array: The array.
        ids: Numbers of the examples in the array, `[N]`.
        check: Which values are allowed.
    """

    def __init__(self, array: Stored, ids: Int64[Tensor, " N"], check: ValueCheck) -> None:
        self._array, self._ids, self._check = array, ids, check

    @property
    def shape(self) -> torch.Size:
        """`[N, *data]`."""
        return torch.Size((len(self._ids), *self._array.shape[1:]))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, ids: Int64[Tensor, " B"], /) -> Shaped[Tensor, "B *data"]:
        """Return some examples, as bytes or as floating-point numbers.

        Raises:
            RunFailedError: The examples cannot be read, or a value is not allowed. The message names file and example.
        """
        numbers = self._ids[ids].numpy()
        values = self._array.read(numbers)
        examples, wrong = self._check(values)
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0])
            raise RunFailedError(
                f"{self._array.where(int(numbers[first[0]]))} holds {values[first]!s}, "
                f"but values={self._check.values} takes {self._check.wanted}"
            )
        return examples

    def in_memory(self, title: str) -> Shaped[Tensor, "N *data"]:
        """Return all examples. Long reading shows a progress line."""
        examples, start = torch.empty(self.shape, dtype=self._check.dtype), 0
        for chunk in chunks(self, title):
            examples[start : start + len(chunk)] = chunk
            start += len(chunk)
        return examples


def describe(arrays: Collection[Stored]) -> str:
    """Return the type and the range of all values of some arrays, and which `data.values` suit them.

    Raises:
        RunFailedError: An array cannot be read.
    """
    check = ValueCheck("any", "any")
    found = [summarise(ArrayExamples(array, torch.arange(array.shape[0]), check)) for array in arrays]
    least = float(np.min([each.least for each in found]))  # NaN if any is NaN
    most = float(np.max([each.most for each in found]))
    integers = all(each.integers for each in found)
    dtype = next(iter(arrays)).dtype
    real = dtype.kind == "f"
    holds = f"{dtype} values {least:g}..{most:g}{', all integers' if integers and real else ''}"
    unit = least >= 0 and most <= 1
    if not all(each.finite for each in found):
        return f"{holds}: NaN and infinite values are not supported"
    if not integers:
        suits: tuple[str, ...] = ("continuous", *GREY) if unit else ("continuous",)
    elif unit:
        suits = ("binary",)
    elif least >= 0 and most <= 255:
        suits = LEVELS if real else (*LEVELS, *GREY)
    else:
        return f"{holds}: scale them to 0..255 for levels, or add noise and take continuous"
    return f"{holds}; suitable: {', '.join(suits)}"
