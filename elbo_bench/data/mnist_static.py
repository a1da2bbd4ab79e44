"""MNIST binarised once and for all: the files that most published results on binary MNIST stand on."""

import concurrent.futures
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.errors import UsageError

_FOLDER = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
_NUM_PIXELS = 784


def _file(name: str, sha256: str, num_images: int) -> DataFile:
    size = num_images * 2 * _NUM_PIXELS
    return DataFile(f"static_mnist/{name}", sha256, (f"{_FOLDER}/{name}",), size, gzipped=True)


@dataclass(frozen=True, kw_only=True)
class MnistStatic(DataSource):
    """Larochelle's binary MNIST, 28 x 28 pixels, with the published splits.

    Training and validation images are a shuffled partition of MNIST's training file. The test images are
    **sorted by class**, zeros first: a prefix of the test split is not a random sample of it.

    Reference: Salakhutdinov, Murray, 2008, "On the quantitative analysis of deep belief networks"; files by Hugo
    Larochelle.
    """

    licence: ClassVar[str] = "none stated; derived from MNIST"
    citation: ClassVar[str] = (
        "Larochelle, Murray, The neural autoregressive distribution estimator, AISTATS 2011; "
        "Salakhutdinov, Murray, On the quantitative analysis of deep belief networks, ICML 2008"
    )
    homepage: ClassVar[str] = f"{_FOLDER}/"
    files: ClassVar[tuple[DataFile, ...]] = (
        _file("binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 50_000),
        _file("binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 10_000),
        _file("binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 10_000),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "static": "c263af618bc1ec7723a06777b7c2c142b514f38c552408e2a87bfeccf87feda9",
    }

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return "50000/10000/10000 as published by Larochelle, binarised once upstream"

    def load(self, root: Path) -> Dataset:
        """Read the three files below `root`; the rows keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

        def read(file: DataFile, num_images: int) -> UInt8[Tensor, "N 28 28"]:
            return parse_amat(file.read(root), num_images, file.place(root)).view(-1, 28, 28)

        with concurrent.futures.ThreadPoolExecutor() as pool:  # 110 MB of text, inflated and hashed side by side
            train, validation, test = pool.map(read, self.files, (50_000, 10_000, 10_000))
        return Dataset(
            name="mnist_static",
            protocol=self.protocol,
            values="static",
            num_levels=2,
            train=train,
            validation=validation.float(),
            test=test.float(),
            files=self.sha256s(),
        )


def parse_amat(raw: bytes, num_images: int, place: Path) -> UInt8[Tensor, "N 784"]:
    """Return the images of a text file: lines of 784 digits 0 or 1 with one space between them.

    Args:
        raw: The text.
        num_images: Lines that the file must have.
        place: The file, for the message.

    Raises:
        UsageError: A byte of the file is not what the format says.
    """
    size = num_images * _NUM_PIXELS * 2
    if len(raw) != size:
        raise UsageError(f"data file {place} holds {len(raw)} bytes of text, expected {num_images} lines: {size} bytes")
    # A digit and the separator after it are one 16-bit number; what is left of it after the expected bits are
    # taken away is the pixel, and more than 1 if any other bit was set.
    blank = np.frombuffer(b"0 " * (_NUM_PIXELS - 1) + b"0\n", dtype="<u2")
    pixels = np.frombuffer(raw, dtype="<u2").reshape(num_images, _NUM_PIXELS) ^ blank
    if pixels.max(initial=0) > 1:
        line = int((pixels > 1).any(axis=1).argmax()) + 1
        raise UsageError(f"data file {place}, line {line}: not {_NUM_PIXELS} digits 0 or 1 with one space between them")
    return torch.from_numpy(pixels.astype(np.uint8))
