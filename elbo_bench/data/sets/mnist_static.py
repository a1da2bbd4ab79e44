"""MNIST, binarised once upstream: the files that most published results on binary MNIST use."""

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
from elbo_bench.data.reading.files import DataFile

_FOLDER = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
_NUM_PIXELS = 784


def _file(name: str, sha256: str, num_images: int) -> DataFile:
    size = num_images * 2 * _NUM_PIXELS
    return DataFile(f"static_mnist/{name}", sha256, (f"{_FOLDER}/{name}",), size, gzipped=True)


@dataclass(frozen=True, kw_only=True)
class MnistStatic(DataSource):
    """Larochelle's binary MNIST, 28 x 28 pixels, with the published splits.

    Training and validation images are a shuffled partition of MNIST's training file. The test images are
    **sorted by class**, zeros first, so the first images of the test split are not a random sample.

    Reference: Salakhutdinov, Murray, 2008, "On the quantitative analysis of deep belief networks"; files by Hugo
    Larochelle.
    """

    licence = "none stated; derived from MNIST"
    citation = (
        "Larochelle, Murray, The neural autoregressive distribution estimator, AISTATS 2011; "
        "Salakhutdinov, Murray, On the quantitative analysis of deep belief networks, ICML 2008"
    )
    homepage = f"{_FOLDER}/"
    files = (
        _file("binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 50_000),
        _file("binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 10_000),
        _file("binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 10_000),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "static": "c263af618bc1ec7723a06777b7c2c142b514f38c552408e2a87bfeccf87feda9",
    }

    protocol = "50000/10000/10000 as published by Larochelle, binarised once upstream"

    def load(self, root: Path) -> Dataset:
        """Read the three files in the folder `root`. Examples keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """

        def read(file: DataFile) -> UInt8[Tensor, "N 28 28"]:
            text = np.frombuffer(file.read(root), np.uint8).reshape(-1, 2 * _NUM_PIXELS)
            return torch.from_numpy(text[:, ::2] - ord("0")).view(-1, 28, 28)  # a digit, a space, a digit, ...

        with concurrent.futures.ThreadPoolExecutor() as pool:  # 110 MB of text to inflate and hash
            train, validation, test = pool.map(read, self.files)
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
