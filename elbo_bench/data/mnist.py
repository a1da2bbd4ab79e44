"""MNIST's grey images: the files, and the splits that its protocols share."""

from pathlib import Path
from typing import Annotated

from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from elbo_bench.data.files import DataFile
from elbo_bench.data.idx import read_images

_FOLDERS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "http://yann.lecun.com/exdb/mnist",
)

NumValidation = Annotated[int, Field(ge=1, le=10_000)]
"""Last images of the training file that are kept for validation."""

LICENCE = "CC BY-SA 3.0"
CITATION = (
    "LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998"
)
HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"


def _file(name: str, sha256: str, size: int) -> DataFile:
    return DataFile(f"mnist/{name}", sha256, tuple(f"{folder}/{name}" for folder in _FOLDERS), size)


TRAIN = _file(
    "train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422
)
TEST = _file("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877)


def splits(
    files: tuple[DataFile, ...], num_validation: int, root: Path
) -> tuple[UInt8[Tensor, "N_train 28 28"], UInt8[Tensor, "N_validation 28 28"], UInt8[Tensor, "N_test 28 28"]]:
    """Return the grey images of a training file, without its end, of that end, and of a test file.

    Raises:
        UsageError: A file is missing or is not the official one.
    """
    whole, test = read_images([(files[0], 60_000), (files[1], 10_000)], root)
    train, validation = whole.split([60_000 - num_validation, num_validation])
    return train, validation, test


def splits_words(num_validation: int) -> str:
    """Return what a protocol says of these splits."""
    return f"{60_000 - num_validation}/{num_validation}/10000, validation is the end of the training file"
