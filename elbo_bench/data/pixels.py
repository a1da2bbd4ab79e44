"""How grey values become observations: six protocols, each of which is another task."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from elbo_bench.data.access import Access, AsIs, Binarise, Dequantise
from elbo_bench.data.dataset import Dataset
from elbo_bench.data.examples import Examples
from elbo_bench.noise import Noise

Values = Literal["dynamic", "fixed", "threshold", "levels", "dequantised", "logit"]
"""`dynamic`: a pixel is 1 with probability grey, drawn anew at every access; `fixed`: so too, drawn once; `threshold`:
it is 1 where grey is more than a half; `levels`: grey as it is, a level; `dequantised`: (level + uniform noise) /
number of levels; `logit`: that, mapped to the real line."""

TestBinarization = Literal["fixed", "resample"]
"""Whether `dynamic` test observations are drawn once, by the protocol, or anew with the seed of each evaluation."""

LogitAlpha = Annotated[float, Field(gt=0, lt=0.5)]
"""How far `logit` stays from 0 and 1."""

_BINARY = ("dynamic", "fixed", "threshold")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """One way of making observations of grey values 0 .. top.

    Attributes:
        values: The protocol.
        top: The greatest grey value: 255 for bytes, 1 for floating-point numbers that are probabilities.
        test_binarization: What `dynamic` does with test observations.
        logit_alpha: alpha of `logit`.

    Raises:
        ValueError: Test observations are to be drawn anew, and are not drawn.
    """

    values: Values
    top: int = 255
    test_binarization: TestBinarization = "fixed"
    logit_alpha: float = 1e-6

    def __post_init__(self) -> None:
        if self.test_binarization == "resample" and self.values != "dynamic":
            raise ValueError(f"test_binarization=resample: values={self.values} draws nothing at an access")

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous" if self.values in ("dequantised", "logit") else "discrete"

    @property
    def words(self) -> str:
        """What a protocol says of it."""
        top, num_levels = self.top, self.top + 1
        drawn = f"a pixel is 1 with probability grey{f'/{top}' if top > 1 else ''}: "
        in_unit = f"(level + uniform)/{num_levels}"
        noisy = "noise drawn at every access for train, once for validation and test (data seed 0)"
        test = "validation drawn once (data seed 0), test anew with the seed of each evaluation"
        if self.test_binarization == "fixed":
            test = "validation and test drawn once (data seed 0)"
        return {
            "dynamic": f"{drawn}train drawn at every access, {test}",
            "fixed": f"{drawn}all drawn once (data seed 0)",
            "threshold": f"a pixel is 1 where grey > {top // 2 if top > 1 else '1/2'}",
            "levels": f"levels 0..{top}",
            "dequantised": f"{in_unit}: {noisy}",
            "logit": f"logit(a + (1 - 2a) x) with a = {self.logit_alpha!r} and x = {in_unit}: {noisy}",
        }[self.values]

    def dataset(
        self, name: str, protocol: str, splits: tuple[Examples, Tensor, Tensor], files: Mapping[str, str]
    ) -> Dataset:
        """Return the data set of three splits of grey values.

        Args:
            name: Its name, which is a part of the purposes of its noise.
            protocol: What the splits are, with `words`.
            splits: Training, validation and test rows: bytes 0 .. top, or floating-point numbers in [0, 1] for a binary
                protocol.
            files: sha256 of each file.
        """
        train, validation, test = splits
        access = self._access
        resample = self.test_binarization == "resample"
        return Dataset(
            name=name,
            protocol=protocol,
            values=self.values,
            num_levels=None if self.observation == "continuous" else 2 if self.values in _BINARY else self.top + 1,
            train=self._once(train, name, 2).byte() if self.values in ("fixed", "threshold") else train,
            validation=self._once(validation, name, 0).float(),
            test=test if resample else self._once(test, name, 1).float(),
            access=access,
            test_access=access if resample else AsIs(),
            bounds=(0.0, 1.0) if self.values == "dequantised" else None,
            files=files,
        )

    @property
    def _access(self) -> Access:
        if self.values == "dynamic":
            return Binarise(self.top)
        if self.observation == "continuous":
            return Dequantise(self.top + 1, self.logit_alpha if self.values == "logit" else None)
        return AsIs()

    def _once(self, rows: Examples, name: str, position: int) -> Shaped[Tensor, "N *shape"]:
        """Return observations that are the same in every run."""
        grey = rows if isinstance(rows, Tensor) else rows[torch.arange(len(rows))]
        if self.values in ("dynamic", "fixed"):
            return Noise(0, f"{name}/binarize", position).uniform(grey.shape) < self._probability(grey)
        if self.values == "threshold":
            return grey > (0.5 if grey.is_floating_point() else self.top // 2)
        return self._access(grey, Noise(0, f"{name}/dequantise", position))

    def _probability(self, grey: Shaped[Tensor, "N *shape"]) -> Float[Tensor, "N *shape"]:
        return grey if grey.is_floating_point() else grey.float().div_(self.top)
