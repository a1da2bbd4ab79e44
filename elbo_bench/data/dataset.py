"""The contract of a data set: a number is comparable only within one data set and one protocol."""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Float32, Float64, Int64
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.config.typed import check_fields
from elbo_bench.data.access import Access, AsIs, Binarise
from elbo_bench.data.examples import Examples, Summary, chunks, summarise
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data_info import DataInfo
from elbo_bench.errors import RunFailedError
from elbo_bench.noise import Noise

_LOOKED_AT = 10_000
"""Training examples from which the mean and spread of what is drawn at every access are measured."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """The splits of a data set, ready to be trained on and scored.

    Attributes:
        name: Name of the data set.
        protocol: One line: the splits and how values become observations. Two records whose protocols differ are not
            comparable.
        values: In one word how they do: `"dynamic"`, `"static"`, `"levels"`, ...
        num_levels: Values that a discrete observation takes, 0 .. num_levels - 1; None if it is continuous.
        train: Training rows, `[N, *shape]`: on the CPU, or in a file.
        validation: Observations for choosing a checkpoint, `[N, *shape]`.
        test: Observations that are scored, `[N, *shape]`, the same in every run; with `test_access`, their rows.
        access: How training rows become observations, at every access.
        test_access: How the test rows do, with the seed of an evaluation.
        bounds: Between which a continuous observation lies; None if it may be any real number.
        files: sha256 of each upstream file that was read, by name.
        truth: The log-density, in nats, of the distribution that observations were drawn from, if it is known.
    """

    name: str
    protocol: str
    values: str
    num_levels: int | None
    train: Examples
    validation: Float32[Tensor, "N_validation *shape"]
    test: Tensor
    access: Access = AsIs()  # noqa: RUF009 - frozen
    test_access: Access = AsIs()  # noqa: RUF009
    bounds: tuple[float, float] | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    truth: Callable[[Float[Tensor, "N *shape"]], Float64[Tensor, " N"]] | None = None

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            rows = getattr(self, split)
            if len(rows) and (problem := self._problem(split, self._summary(split))):
                raise RunFailedError(f"data {self.name}: the {split} split {problem}")

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous" if self.num_levels is None else "discrete"

    @property
    def accesses(self) -> dict[str, Access]:
        """How the rows of each split become observations."""
        return {"train": self.access, "validation": AsIs(), "test": self.test_access}

    def _problem(self, split: str, found: Summary) -> str | None:
        """Return what is wrong with the values of a split."""
        access = self.accesses[split]
        if not found.finite:
            return "holds a value that is not finite"
        if isinstance(access, Binarise):
            top = 1 if getattr(self, split)[torch.arange(1)].is_floating_point() else access.top
            if found.least < 0 or found.most > top:
                return f"holds a grey value outside [0, {top}], which cannot be binarised"
        elif self.num_levels is not None and not (found.integers and found.least >= 0 and found.most < self.num_levels):
            return f"is not made of integer levels 0..{self.num_levels - 1}"
        elif isinstance(access, AsIs) and self.bounds is not None:
            low, high = self.bounds
            if found.least < low or found.most > high:
                return f"holds a value outside [{low:g}, {high:g}]"
        return None

    def _summary(self, split: str) -> Summary:
        if split == "train":
            return self._train_summary
        return summarise(getattr(self, split))

    @functools.cached_property
    def _train_summary(self) -> Summary:
        return summarise(self.train, f"reading {len(self.train)} training examples of {self.name}")

    @functools.cached_property
    def info(self) -> DataInfo:
        """What a model must know of its data."""
        mean, scale = self._mean_and_scale()
        return DataInfo(
            shape=tuple(self.train.shape[1:]),
            train_mean=mean.float(),
            num_train=len(self.train),
            observation=self.observation,
            num_levels=self.num_levels,
            bounds=self.bounds,
            scale=scale,
        )

    def _mean_and_scale(self) -> tuple[Float64[Tensor, "*shape"], float]:
        """Return the mean of the training observations and, if they are continuous, how far they spread about it."""
        mean = self._train_summary.mean
        if isinstance(self.access, Binarise):
            rows = self.train[torch.arange(1)]
            return (mean if rows.is_floating_point() else mean / self.access.top), 1.0
        if self.observation == "discrete":
            return mean, 1.0
        looked_at = Noise(0, f"{self.name}/looked-at").permutation(len(self.train))[:_LOOKED_AT].sort().values
        x = self.access(self.train[looked_at], Noise(0, f"{self.name}/look")).double()
        if not isinstance(self.access, AsIs):
            mean = x.mean(0)
        return mean, float((x - mean).square().mean().sqrt()) or 1.0  # data that never vary are in no one's units

    def observations(
        self, split: str, size: int | None = None, *, seed: int = 0
    ) -> tuple[Float[Tensor, "B *shape"], Int64[Tensor, " B"]]:
        """Return `size` observations of a split, or all, and their numbers within it, ascending.

        A part of a split is the head of a fixed random order, never its first rows: they may be sorted by class, or
        neighbours in a film. Training rows are accessed once, the same way whatever the seed, and test rows that are
        drawn at every access with the seed of the evaluation.
        """
        rows = getattr(self, split)
        if size is None or size >= len(rows):
            ids = torch.arange(len(rows))
        else:
            ids = Noise(0, f"{self.name}/subset").permutation(len(rows))[:size].sort().values
        access = self.accesses[split]
        if isinstance(access, AsIs):
            return access(rows if len(ids) == len(rows) and isinstance(rows, Tensor) else rows[ids], Noise(0, "")), ids
        purpose = f"{self.name}/access-{split}"
        seed = 0 if split == "train" else seed
        # Each example has noise of its own: what is drawn for it does not depend on which others are scored.
        drawn = [access(rows[ids[i : i + 1]], Noise(seed, purpose, int(ids[i]))) for i in range(len(ids))]
        return torch.cat(drawn), ids

    def grey(self, x: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
        """Return observations, or means of them, as values in [0, 1] to be drawn."""
        if self.num_levels is not None:
            return x / (self.num_levels - 1)
        if self.bounds is not None or not isinstance(self.access, AsIs):
            return self.access.grey(x)
        low, high = self._train_summary.least, self._train_summary.most
        return (x - low) / max(high - low, 1e-30)

    def log_volume(self, x: Float[Tensor, "N *shape"]) -> Float64[Tensor, " N"] | None:
        """Return nats that make log p(x) that of the levels behind an observation; None if there are no levels.

        Zero where an observation is a level itself.
        """
        if self.num_levels is not None:
            return torch.zeros(len(x), dtype=torch.float64)
        return self.access.log_volume(x)

    def record(self) -> dict[str, Any]:
        """Return what a result says of its data: enough to decide whether two results are comparable."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "values": self.values,
            "test_binarization": "fixed" if isinstance(self.test_access, AsIs) else "resample",
            "observation": self.observation,
            "num_levels": self.num_levels,
            "shape": list(self.train.shape[1:]),
            "splits": {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)},
            "files_sha256": dict(sorted(self.files.items())),
            "test_sha256": self.test_sha256,
        }

    @functools.cached_property
    def test_sha256(self) -> str:
        """sha256 of the test split: of its observations or, where these are drawn at every access, of its rows."""
        return tensor_sha256(self.test)


def tensor_sha256(values: Examples) -> str:
    """Return the sha256 of values as little-endian float32 in row-major order."""
    digest = hashlib.sha256()
    for chunk in chunks(values):
        digest.update(chunk.contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource(abc.ABC):
    """Where a data set comes from; its fields are its configuration.

    Attributes:
        batch_size: Examples in a global batch, over all ranks.
        shuffle: Whether every epoch has an order of its own; False keeps the order of the files.
    """

    batch_size: PositiveInt = 100
    shuffle: bool = True

    licence: ClassVar[str]
    citation: ClassVar[str]
    homepage: ClassVar[str] = ""
    files: ClassVar[tuple[DataFile, ...]] = ()
    test_sha256: ClassVar[Mapping[str, str]] = {}
    """What `Dataset.test_sha256` must be, by `values`, with every other key as it is by default."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def readers(self) -> int:
        """How many processes read training rows ahead, where these stay in a file."""
        return 0

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "discrete"

    @property
    @abc.abstractmethod
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""

    @abc.abstractmethod
    def load(self, root: Path) -> Dataset:
        """Read the data set from the folder of data sets, `root`.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

    def with_content_hash(self, root: Path) -> "DataSource":  # noqa: ARG002 - most sources are known by their fields
        """Return the source with what identifies its data written into its fields, where a path alone would not.

        Raises:
            UsageError: A file is missing.
        """
        return self

    def sha256s(self) -> dict[str, str]:
        """Return the sha256 of each official file that has one, by its path."""
        return {file.path: file.sha256 for file in self.files if file.sha256 is not None}

    def credits(self) -> dict[str, Any]:
        """Return what a record says of where the data come from."""
        return {
            "source": f"{type(self).__module__}:{type(self).__qualname__}",
            "licence": self.licence,
            "citation": self.citation,
            "homepage": self.homepage,
            "addresses": {file.path: list(file.addresses) for file in self.files},
        }
