"""MNIST whose pixels are drawn from their grey values: the protocol of the importance-weighted autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from elbo_bench.data import mnist
from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.pixels import Pixels, TestBinarization


@dataclass(frozen=True, kw_only=True)
class MnistDynamic(GreySource):
    """MNIST, 28 x 28 pixels; grey / 255 is the probability of ink.

    Training observations are drawn anew at every access. Validation and test observations were drawn once, by
    the protocol and not by the run, so every run is scored on the same binary images; Burda et al. (2016) drew
    their test set at every access too (`test_binarization=resample`), which adds noise to a score and no bias.

    Attributes:
        num_validation: Last images of the training file that are kept for validation; the code of Burda et al.
            (2016) keeps 400.
        test_binarization: Whether test observations are the same in every run, or drawn with its seed.
    """

    num_validation: mnist.NumValidation = 400
    test_binarization: TestBinarization = "fixed"

    name: ClassVar[str] = "mnist_dynamic"
    licence: ClassVar[str] = mnist.LICENCE
    citation: ClassVar[str] = mnist.CITATION
    homepage: ClassVar[str] = mnist.HOMEPAGE
    files: ClassVar[tuple[DataFile, ...]] = (mnist.TRAIN, mnist.TEST)
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "8200bf4039f6e9b1fcc9a788896ea0a6db1302ffc35b5054849122663670abd1",
    }

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        return mnist.splits_words(self.num_validation)

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels("dynamic", test_binarization=self.test_binarization)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the two files below `root`.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        return mnist.splits(self.files, self.num_validation, root)
