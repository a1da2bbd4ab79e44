"""Random numbers as a pure function of (seed, purpose, position): there is no generator state to save.

A Philox counter-based generator (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3") is
keyed by the seed and the purpose and its counter starts at the position, so what a run draws depends neither
on the number of devices, nor on what was drawn before, nor on where the run was resumed.
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
    """What `draw` asks for: standard normal numbers of a shape, or a seed for those who make their own."""

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return standard normal numbers of `shape`: `[K, B, *event]`."""
        ...

    def torch_seed(self) -> int:
        """Return a seed for distributions that only know `rsample`."""
        ...

    def apart(self, purpose: str) -> "NormalSource":
        """Return a source of numbers that are independent of these, and whose use changes none of these."""
        ...


@dataclasses.dataclass(frozen=True)
class Noise:
    """The random numbers that belong to one place of one run.

    Attributes:
        seed: The run's seed, any integer.
        purpose: What the numbers are for: `"init"`, `"shuffle"`, `"binarize"`, `"latent"`, `"evaluate"`, ...
        position: Where in the run: the global batch for training, the block of examples for evaluation.
        rows: `(start, total)` of a rank's rows within the global batch. The noise is drawn for the whole
            batch and sliced, so that a rank's index never enters a key.
    """

    seed: int
    purpose: str
    position: int = 0
    rows: tuple[int, int] | None = None

    def generator(self) -> np.random.Generator:
        """Return a fresh NumPy generator at this position; positions are 2**192 numbers apart."""
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
        whole = _normal(self.generator(), (num_samples, total, *event), dtype, "cpu")
        return whole[:, start : start + num_rows].to(device)

    def uniform(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Return float32 numbers, uniform on [0, 1), of `shape` `[B, *data]`, the same at every call."""
        whole = self.generator().random((self._total(shape), *shape[1:]), dtype=np.float32)
        return self._own(torch.from_numpy(whole), shape).to(device)

    def below(self, end: int, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Return whole numbers, uniform on 0 .. end - 1 with 1 <= end <= 256, as uint8 of `shape` `[B, *data]`.

        Exactly uniform: a byte beyond the last multiple of `end` is drawn again. Five times as fast as `uniform`.
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

    def _own(self, whole: Tensor, shape: Sequence[int]) -> Tensor:
        """Return a rank's rows of what was drawn for the whole batch."""
        start = 0 if self.rows is None else self.rows[0]
        return whole[start : start + shape[0]]

    def permutation(self, size: int) -> Tensor:
        """Return a random order of `range(size)` as int64 `[size]`."""
        return torch.from_numpy(self.generator().permutation(size))

    def torch_seed(self) -> int:
        """Return a 63-bit seed for torch's own generators, for code that draws its own numbers.

        Unlike `normal`, what is drawn with it depends on the device, on the shapes drawn before and on how the global
        batch is shared out; ranks draw different numbers all the same.
        """
        return int(self.generator().integers(2**63)) ^ (0 if self.rows is None else self.rows[0])

    def apart(self, purpose: str) -> "Noise":
        """Return the noise of another purpose at the same place of the run."""
        return dataclasses.replace(self, purpose=f"{self.purpose}/{purpose}")

    def stream(self) -> "NoiseStream":
        """Return a source that hands out this position's numbers piece by piece.

        However a sequence is cut into pieces along its first axis, its concatenation is the same.
        """
        return NoiseStream(self)


class NoiseStream:
    """The numbers of one position, handed out piece by piece: see `Noise.stream`."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._apart: dict[str, NoiseStream] = {}

    @functools.cached_property
    def _generator(self) -> np.random.Generator:
        return self._noise.generator()  # at the first number: most streams apart are never used

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

    def apart(self, purpose: str) -> "NoiseStream":
        """Return the stream of another purpose, the same one at every call: it goes on where it was left."""
        if purpose not in self._apart:
            self._apart[purpose] = self._noise.apart(purpose).stream()
        return self._apart[purpose]


def _random_bytes(generator: np.random.Generator, size: int) -> np.ndarray:
    words = generator.integers(2**64 - 1, size=-(-size // 8), dtype=np.uint64, endpoint=True)
    return words.astype("<u8", copy=False).view(np.uint8)[:size]  # the same bytes on a big-endian machine


def _normal(
    generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    if dtype is torch.float64:
        return torch.from_numpy(generator.standard_normal(tuple(shape))).to(device)
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32)).to(device, dtype)
