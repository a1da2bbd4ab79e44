"""MNIST's grey images, and data sets in the same format."""

import concurrent.futures
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor
from zlib_ng import zlib_ng

from elbo_bench.data.reading.files import GZIP, DataFile
from elbo_bench.data.reading.grey_source import GreySource

_IDX_HEADER = 16  # bytes: a magic number and three sizes

LICENCE = "CC BY-SA 3.0"
CITATION = (
    "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998"
)
HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"


def mirrored(path: str, sha256: str, size: int, folders: tuple[str, ...]) -> DataFile:
    """Return a data file that each of several web folders has under its own name."""
    return DataFile(path, sha256, tuple(f"{folder}/{Path(path).name}" for folder in folders), size)


_FOLDERS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)
FILES = (
    mirrored(
        "mnist/train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
        _FOLDERS,
    ),
    mirrored(
        "mnist/t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
        _FOLDERS,
    ),
)


@dataclass(frozen=True, kw_only=True)
class MnistSource(GreySource):
    """60,000 training and 10,000 test images of 28 x 28 bytes, in two gzip files in the IDX format.

    Attributes:
        num_validation: Number of images at the end of the training file that are used for validation.
    """

    num_validation: Annotated[int, Field(ge=1, le=10_000)] = 400

    @property
    def splits(self) -> str:
        """The splits in a few words."""
        return f"{60_000 - self.num_validation}/{self.num_validation}/10000, validation is the end of the training file"

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of the two files.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

        def read(file: DataFile) -> UInt8[Tensor, "N 28 28"]:
            raw = zlib_ng.decompress(file.read(root), GZIP)
            # A copy, since torch has no read-only tensors.
            return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=_IDX_HEADER).reshape(-1, 28, 28).copy())

        with concurrent.futures.ThreadPoolExecutor() as pool:
            images, test = pool.map(read, self.files)
        train, validation = images.split([60_000 - self.num_validation, self.num_validation])
        return train, validation, test
