"""Random numbers as a pure function of (seed, purpose, position). There is no generator state to save.

Seed and purpose are the key of a Philox counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy
as 1, 2, 3"). The position is the start of its counter. The numbers of a run therefore do not depend on the number of
devices, on earlier draws, or on where the run was resumed.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class NormalSource(Protocol):
    """A source of random numbers: standard normal numbers, or a seed for torch's own generators."""

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return standard normal numbers of `shape`: `[K, B, *event]`."""
        ...

    def torch_seed(self) -> int:
        """Return a seed for distributions that can only be sampled with torch's generator."""
        ...

    def child(self, purpose: str) -> "NormalSource":
        """Return an independent source for another purpose. Using it does not change the numbers of this source."""
        ...


@dataclasses.dataclass(frozen=True)
class Noise:
    """The random numbers for one purpose and one position of a run.

    Attributes:
        seed: The run's seed, any integer.
        purpose: Use of the numbers: `"init"`, `"shuffle"`, `"binarize"`, `"latent"`, `"evaluate"`, ...
        position: Index of the global batch in training, index of the block of examples in evaluation.
        rows: `(start, total)`: the part of the global batch that this rank has. Each rank draws the numbers of the
            global batch and keeps its part, so the numbers do not depend on the number of ranks.
    """

    seed: int
    purpose: str
    position: int = 0
    rows: tuple[int, int] | None = None

    def generator(self) -> np.random.Generator:
        """Return a new NumPy generator at this position. The distance of two positions is 2**192 numbers."""
        digest = hashlib.blake2b(f"{self.seed}/{self.purpose}".encode(), digest_size=16).digest()
        key = np.frombuffer(digest, dtype="<u8")
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.position]))

    def normal(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normal numbers of `shape` `[K, B, *event]`, the same at every call."""
        if self.rows is None:
            return _normal(self.generator(), shape, dtype, device)
        start, total = self.rows
        num_samples, num_rows, *event = shape
        numbers = _normal(self.generator(), (num_samples, total, *event), dtype, "cpu")
        return numbers[:, start : start + num_rows].to(device)

    def uniform(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Return float32 numbers, uniform on [0, 1), of `shape` `[B, *data]`, the same at every call."""
        numbers = self.generator().random((self._total(shape), *shape[1:]), dtype=np.float32)
        return self._own(torch.from_numpy(numbers), shape).to(device)

    def below(self, end: int, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Return integers, uniform on 0 .. end - 1 with 1 <= end <= 256, as uint8 of `shape` `[B, *data]`.

        They are exactly uniform: bytes above the last multiple of `end` are drawn again. This is five times as fast as
        `uniform`.
        """
        generator, size = self.generator(), math.prod([self._total(shape), *shape[1:]])
        accepted = 256 // end * end
        numbers = _random_bytes(generator, size)
        if accepted < 256:
            again = np.flatnonzero(numbers >= accepted)
            while len(again):
                numbers[again] = _random_bytes(generator, len(again))
                again = again[numbers[again] >= accepted]
        if accepted != end:
            numbers %= np.uint8(end)
        return self._own(torch.from_numpy(numbers.reshape(-1, *shape[1:])), shape).to(device)

    def _total(self, shape: Sequence[int]) -> int:
        return shape[0] if self.rows is None else self.rows[1]

    def _own(self, numbers: Tensor, shape: Sequence[int]) -> Tensor:
        """Return this rank's part of the numbers of the global batch."""
        start = 0 if self.rows is None else self.rows[0]
        return numbers[start : start + shape[0]]

    def permutation(self, size: int) -> Tensor:
        """Return a random order of `range(size)` as int64 `[size]`."""
        return torch.from_numpy(self.generator().permutation(size))

    def torch_seed(self) -> int:
        """Return a 63-bit seed for torch's own generators.

        Numbers that are drawn with it depend on the device, on the shapes drawn before and on the number of ranks.
        Different ranks draw different numbers.
        """
        return int(self.generator().integers(2**63)) ^ (0 if self.rows is None else self.rows[0])

    def child(self, purpose: str) -> "Noise":
        """Return the noise for another purpose at the same position."""
        return dataclasses.replace(self, purpose=f"{self.purpose}/{purpose}")

    def stream(self) -> "NoiseStream":
        """Return a source that draws the numbers of this position in several calls.

        The concatenation along the first axis does not depend on how the calls divide the numbers.
        """
        return NoiseStream(self)


class NoiseStream:
    """The numbers of one position, drawn in several calls. See `Noise.stream`."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._children: dict[str, NoiseStream] = {}

    @functools.cached_property
    def _generator(self) -> np.random.Generator:
        return self._noise.generator()  # created with the first number, because most child streams are never used

    def normal(
        self, shape: Sequence[int], *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return the next standard normal numbers of `shape`."""
        return _normal(self._generator, shape, dtype, device)

    def uniform(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Return the next float64 numbers, uniform on [0, 1), of `shape`."""
        return torch.from_numpy(self._generator.random(tuple(shape))).to(device)

    def torch_seed(self) -> int:
        """Return the next 63-bit seed."""
        return int(self._generator.integers(2**63))

    def child(self, purpose: str) -> "NoiseStream":
        """Return the stream for another purpose. Each call returns the same stream, which continues."""
        if purpose not in self._children:
            self._children[purpose] = self._noise.child(purpose).stream()
        return self._children[purpose]


def _random_bytes(generator: np.random.Generator, size: int) -> np.ndarray:
    words = generator.integers(2**64 - 1, size=-(-size // 8), dtype=np.uint64, endpoint=True)
    return words.astype("<u8", copy=False).view(np.uint8)[:size]  # the same bytes on a big-endian machine


def _normal(
    generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    if dtype is torch.float64:
        return torch.from_numpy(generator.standard_normal(tuple(shape))).to(device)
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32)).to(device, dtype)
