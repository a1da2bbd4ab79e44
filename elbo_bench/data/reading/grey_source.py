"""The base class of data sets of grey values."""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.examples import Examples
from elbo_bench.data.pixels import Pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class GreySource(DataSource):
    """A data set of grey values, which `pixels` turns into observations."""

    name: ClassVar[str]
    """Name of the data set. The noise of its observations depends on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.pixels  # checks that values and test_binarization agree

    @property
    @abc.abstractmethod
    def pixels(self) -> Pixels:
        """How grey values become observations."""

    @property
    @abc.abstractmethod
    def splits(self) -> str:
        """The splits in a few words."""

    @abc.abstractmethod
    def read(self, root: Path) -> tuple[Examples, Tensor, Tensor]:
        """Return the grey values of train, validation and test, as `Pixels.dataset` takes them.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return self.pixels.observation

    @property
    def protocol(self) -> str:
        """The splits, and how values become observations."""
        return f"{self.splits}; {self.pixels.words}"

    def load(self, root: Path) -> Dataset:
        """Read the files in the folder `root`. Examples keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        return self.pixels.dataset(self.name, self.protocol, self.read(root), self.sha256s())
