"""MNIST binarised once and for all: the files that most published results on binary MNIST stand on."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.data.idx import inflate
from elbo_bench.errors import UsageError

_TRAIN = DataFile(
    "static_mnist/binarized_mnist_train.amat.gz", "af247bd6075cf9adc4715459dcd5f13eaa99a2c92d8d81379a05da94770b6c0e"
)
_VALIDATION = DataFile(
    "static_mnist/binarized_mnist_valid.amat.gz", "533b71bc0198f4d73c54ae5fe6c96fc08dc3cf1b3fae24c5521dbc0452507e38"
)
_TEST = DataFile(
    "static_mnist/binarized_mnist_test.amat.gz", "32a3c54d03504632bf9f131b4a148c7567aa6fc87da017049b044bdc14c2a0f2"
)
_NUM_PIXELS = 784


@dataclass(frozen=True, kw_only=True)
class MnistStatic(DataSource):
    """Larochelle's binary MNIST, 28 x 28 pixels, with the published splits.

    Training and validation images are a shuffled partition of MNIST's training file. The test images are
    **sorted by class**, zeros first: a prefix of the test split is not a random sample of it.

    Reference: Salakhutdinov, Murray, 2008, "On the quantitative analysis of deep belief networks"; files by Hugo
    Larochelle.
    """

    observation: ClassVar[Literal["discrete", "continuous"]] = "discrete"
    licence: ClassVar[str] = "none stated; derived from MNIST"
    citation: ClassVar[str] = (
        "Larochelle, Murray, The neural autoregressive distribution estimator, AISTATS 2011; "
        "Salakhutdinov, Murray, On the quantitative analysis of deep belief networks, ICML 2008"
    )
    files: ClassVar[tuple[DataFile, ...]] = (_TRAIN, _VALIDATION, _TEST)

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return "50000/10000/10000 as published by Larochelle, binarised once upstream"

    def load(self, root: Path) -> Dataset:
        """Read the three files below `root`; the rows keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        train, validation, test = (
            parse_amat(file.read(root), num_images, root / file.path).view(-1, 28, 28)
            for file, num_images in zip(self.files, (50_000, 10_000, 10_000), strict=True)
        )
        return Dataset(
            name="mnist_static",
            protocol=self.protocol,
            observation=self.observation,
            num_levels=2,
            train=train,
            validation=validation,
            test=test,
            binarize=False,
            files={file.path: file.sha256 for file in self.files},
        )


def parse_amat(content: bytes, num_images: int, place: Path) -> Float[Tensor, "N 784"]:
    """Return the images of a gzip'd text file: lines of 784 digits 0 or 1 with one space between them.

    Args:
        content: The compressed bytes.
        num_images: Lines that the file must have.
        place: The file, for the message.

    Raises:
        UsageError: The file is no gzip file, or a byte of it is not what the format says.
    """
    size = num_images * _NUM_PIXELS * 2
    raw = inflate(content, size, place)
    if len(raw) != size:
        raise UsageError(f"data file {place} holds {len(raw)} bytes of text, expected {num_images} lines: {size} bytes")
    # A digit and the separator after it are one 16-bit number; what is left of it after the expected bits are
    # taken away is the pixel, and more than 1 if any other bit was set.
    blank = np.frombuffer(b"0 " * (_NUM_PIXELS - 1) + b"0\n", dtype="<u2")
    pixels = np.frombuffer(raw, dtype="<u2").reshape(num_images, _NUM_PIXELS) ^ blank
    if pixels.max(initial=0) > 1:
        line = int((pixels > 1).any(axis=1).argmax()) + 1
        raise UsageError(f"data file {place}, line {line}: not {_NUM_PIXELS} digits 0 or 1 with one space between them")
    return torch.from_numpy(pixels.view(np.int16)).float()
