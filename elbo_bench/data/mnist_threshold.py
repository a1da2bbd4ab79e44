"""MNIST whose pixels are ink where they are dark: binary images without any chance."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from elbo_bench.data import mnist
from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class MnistThreshold(GreySource):
    """MNIST, 28 x 28 pixels; a pixel is ink if its grey value is more than 127.

    Another task than `mnist_dynamic` and `mnist_static`, and an easier one: no chance is left that a model would have
    to account for.

    Attributes:
        num_validation: Last images of the training file that are kept for validation.
    """

    num_validation: mnist.NumValidation = 400

    name: ClassVar[str] = "mnist_threshold"
    licence: ClassVar[str] = mnist.LICENCE
    citation: ClassVar[str] = mnist.CITATION
    homepage: ClassVar[str] = mnist.HOMEPAGE
    files: ClassVar[tuple[DataFile, ...]] = (mnist.TRAIN, mnist.TEST)
    test_sha256: ClassVar[Mapping[str, str]] = {
        "threshold": "7ec2f4edb0d98617b9a031724c620055352633d7591f829db03d9d45d60638e2",
    }

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        return mnist.splits_words(self.num_validation)

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels("threshold")

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the two files below `root`.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        return mnist.splits(self.files, self.num_validation, root)
