"""The base class of data sets that are drawn from a known distribution."""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float, Float32, Float64
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnSource(DataSource):
    """A data set that is drawn from a known distribution, so the true log p(x) is known.

    A larger `num_train`, `num_validation` or `num_test` keeps the first examples of the split.

    Attributes:
        num_train: Number of training examples.
        num_validation: Number of validation examples.
        num_test: Number of test examples.
        data_seed: Seed of the examples. The run's seed does not change them.
    """

    num_train: PositiveInt = 2000
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 500
    data_seed: NonNegativeInt = 0

    name: ClassVar[str]
    licence = "none needed: the data are drawn, not collected"

    @property
    @abc.abstractmethod
    def distribution(self) -> str:
        """The distribution and the value of each field that determines it, in words."""

    @abc.abstractmethod
    def draw(self, split: str, num_examples: int) -> Float32[Tensor, "N *shape"]:
        """Return the examples of a split."""

    @abc.abstractmethod
    def log_p_x(self, x: Float[Tensor, "N *shape"]) -> Float64[Tensor, " N"]:
        """Return the true log p(x) of each observation, in nats."""

    @property
    def protocol(self) -> str:
        """The sizes of the splits, and the distribution with all its parameters."""
        sizes = f"{self.num_train}/{self.num_validation}/{self.num_test}"
        return f"{sizes} drawn from {self.distribution}, data_seed={self.data_seed}"

    def load(self, root: Path) -> Dataset:  # noqa: ARG002 - no file is read
        """Draw the three splits."""
        return Dataset(
            name=self.name,
            protocol=self.protocol,
            values="drawn",
            num_levels=2 if self.observation == "discrete" else None,
            train=self.draw("train", self.num_train),
            validation=self.draw("validation", self.num_validation),
            test=self.draw("test", self.num_test),
            truth=self.log_p_x,
        )
