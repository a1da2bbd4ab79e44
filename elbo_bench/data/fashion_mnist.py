"""Fashion-MNIST: clothes in the format of MNIST, binary, in 256 levels or continuous."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from elbo_bench.data import mnist
from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.pixels import LogitAlpha, Pixels, TestBinarization, Values

_FOLDERS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
)


def _file(name: str, sha256: str, size: int) -> DataFile:
    return DataFile(f"fashion_mnist/{name}", sha256, tuple(f"{folder}/{name}" for folder in _FOLDERS), size)


@dataclass(frozen=True, kw_only=True)
class FashionMnist(GreySource):
    """Fashion-MNIST, 28 x 28 pixels, classes exactly balanced.

    Each of `values` is a task of its own, whose numbers are not comparable with another's.

    Attributes:
        values: How grey values 0..255 become observations.
        num_validation: Last images of the training file that are kept for validation.
        test_binarization: Whether `dynamic` test observations are the same in every run, or drawn with its seed.
        logit_alpha: How far `logit` stays from 0 and 1.
    """

    values: Values = "dynamic"
    num_validation: mnist.NumValidation = 400
    test_binarization: TestBinarization = "fixed"
    logit_alpha: LogitAlpha = 1e-6

    name: ClassVar[str] = "fashion_mnist"
    licence: ClassVar[str] = "MIT"
    citation: ClassVar[str] = "Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017"
    homepage: ClassVar[str] = "https://github.com/zalandoresearch/fashion-mnist"
    files: ClassVar[tuple[DataFile, ...]] = (
        _file(
            "train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880
        ),
        _file(
            "t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102
        ),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "21b16a2c783cae22efdf286cbeee699f2dfa88bb295a04bb496111cf3ce50706",
        "fixed": "21b16a2c783cae22efdf286cbeee699f2dfa88bb295a04bb496111cf3ce50706",
        "threshold": "3c085ccc2280342b04caeff28c1212787c0544572cc38cc15be71e4ce3ef44e3",
        "levels": "0169a6f9509eaf39785478798039e49921dcb7db2d1596bc6e6287522b43337e",
        "dequantised": "44488281c87ee796ba48ac64036f2d83fe8bfdf274be508019f31a1f9d5cd2f2",
        "logit": "542e8147c3e2ab5d53fd51a28a2eaa4aaa19497f51e42b5c9ffe2e5cc2e6f2a0",
    }

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        return mnist.splits_words(self.num_validation)

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, test_binarization=self.test_binarization, logit_alpha=self.logit_alpha)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the two files below `root`.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        return mnist.splits(self.files, self.num_validation, root)
