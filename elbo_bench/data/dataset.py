"""The contract of a data set: a number is comparable only within one data set and one protocol."""

import abc
import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.data.files import DataFile
from elbo_bench.data_info import DataInfo
from elbo_bench.errors import RunFailedError
from elbo_bench.noise import Noise
from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The tensors of a data set, on the CPU, ready to be trained on and scored.

    Attributes:
        name: Name of the data set.
        protocol: One line: the splits and how grey values become observations. Two records whose protocols
            differ are not comparable.
        observation: Whether an observation has a probability mass or a density.
        num_levels: Values a discrete observation takes; None if continuous.
        train: Training examples, `[N, *shape]`; with `binarize`, the probabilities that a pixel is 1.
        validation: Observations for choosing a checkpoint, `[N, *shape]`.
        test: Observations that are scored, `[N, *shape]`, the same in every run.
        binarize: Whether `train` holds Bernoulli probabilities, drawn anew at every access.
        files: sha256 of each upstream file that was read, by name.
    """

    name: str
    protocol: str
    observation: Literal["discrete", "continuous"]
    num_levels: int | None
    train: Float[Tensor, "N_train *shape"]
    validation: Float[Tensor, "N_validation *shape"]
    test: Float[Tensor, "N_test *shape"]
    binarize: bool
    files: dict[str, str]

    def __post_init__(self) -> None:
        for split in ("train", "validation", "test"):
            values = getattr(self, split)
            if values.numel() == 0:
                continue
            # NaN is both the least and the greatest value, and no copy of a large split is made.
            low, high = (bound.item() for bound in torch.aminmax(values))
            if not math.isfinite(low) or not math.isfinite(high):
                raise RunFailedError(f"data {self.name}: the {split} split holds a value that is not finite")
            if split == "train" and self.binarize:
                if low < 0 or high > 1:
                    raise RunFailedError(f"data {self.name}: a Bernoulli probability lies outside [0, 1]")
            elif self.num_levels is not None:
                whole = all(torch.equal(rows, rows.round()) for rows in values.split(1024))
                if not whole or low < 0 or high >= self.num_levels:
                    raise RunFailedError(
                        f"data {self.name}: the {split} split is not made of whole levels 0..{self.num_levels - 1}"
                    )

    @property
    def info(self) -> DataInfo:
        """What a model must know of its data."""
        return DataInfo(
            shape=tuple(self.train.shape[1:]),
            train_mean=self.train.mean(0, dtype=torch.float64).float(),
            num_train=len(self.train),
            observation=self.observation,
            num_levels=self.num_levels,
        )

    def subset(self, split: str, size: int | None) -> tuple[Tensor, Tensor]:
        """Return `size` examples of a split, or all, and their numbers within it, ascending.

        A part of a split is the head of a fixed random order, never its first rows: they may be sorted by class.
        """
        values: Tensor = getattr(self, split)
        if size is None or size >= len(values):
            return values, torch.arange(len(values))
        ids = Noise(0, f"{self.name}/subset").permutation(len(values))[:size].sort().values
        return values[ids], ids

    def record(self) -> dict[str, Any]:
        """Return what a result says of its data: enough to tell whether two results are comparable."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "observation": self.observation,
            "num_levels": self.num_levels,
            "shape": list(self.train.shape[1:]),
            "splits": {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)},
            "files_sha256": dict(sorted(self.files.items())),
            "test_sha256": tensor_sha256(self.test),
        }


def tensor_sha256(values: Tensor) -> str:
    """Return the sha256 of a tensor's values as little-endian float32 in row-major order."""
    return hashlib.sha256(values.contiguous().numpy().astype("<f4").tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource(abc.ABC):
    """Where a data set comes from; its fields are its configuration.

    Attributes:
        batch_size: Examples in a global batch, over all ranks.
        shuffle: Whether every epoch has an order of its own; False keeps the order of the files.
    """

    batch_size: PositiveInt = 100
    shuffle: bool = True

    observation: ClassVar[Literal["discrete", "continuous"]]
    licence: ClassVar[str]
    citation: ClassVar[str]
    files: ClassVar[tuple[DataFile, ...]] = ()

    def __post_init__(self) -> None:
        check_fields(self)

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
