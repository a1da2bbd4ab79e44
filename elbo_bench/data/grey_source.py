"""Where data sets of grey values come from: what they have in common, whatever becomes of the values."""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.pixels import Pixels
from elbo_bench.data.rows import Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class GreySource(DataSource):
    """A source of grey values, which `pixels` makes observations of."""

    name: ClassVar[str]
    """Name of the data set, and a part of the purposes of its noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.pixels  # refuses what does not fit together

    @property
    @abc.abstractmethod
    def pixels(self) -> Pixels:
        """How grey values become observations."""

    @property
    @abc.abstractmethod
    def splits(self) -> str:
        """What the splits are, in a few words."""

    @abc.abstractmethod
    def read(self, root: Path) -> tuple[Rows, Tensor, Tensor]:
        """Return the grey values of the training, validation and test split, see `Pixels.dataset`.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return self.pixels.observation

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return f"{self.splits}; {self.pixels.words}"

    def load(self, root: Path) -> Dataset:
        """Read the files below `root`; rows keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        return self.pixels.dataset(self.name, self.protocol, self.read(root), self.sha256s())
