"""Caltech 101 Silhouettes: filled outlines of objects, binary, with a published split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.reading.mat import read_mat


@dataclass(frozen=True, kw_only=True)
class Caltech101Silhouettes(DataSource):
    """Silhouettes of the objects of Caltech 101, 28 x 28 pixels, with the published splits.

    **The object is 0 and the background 1**, as published. Some code swaps them, which does not change the best
    log p(x) that a model can reach. Of the 8,671 images, 8,625 are distinct: 3 are in both train and validation, 4 in
    both train and test, 2 in both validation and test.
    """

    licence = "none stated; derived from the Caltech 101 annotations"
    citation = (
        "Marlin, Swersky, Chen, de Freitas, Inductive principles for restricted Boltzmann machine learning, "
        "AISTATS 2010"
    )
    homepage = "https://people.cs.umass.edu/~marlin/data.shtml"
    files = (
        DataFile(
            "caltech101_silhouettes/caltech101_silhouettes_28_split1.mat",
            "eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
            ("https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",),
            872_124,
        ),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "static": "419f6a80feefbe5c8a163d54bb53db71fafcc87b553e4cdf6fb8d17a418d1d23",
    }

    protocol = "4100/2264/2307 as published (split1), binary upstream, the object is 0"

    def load(self, root: Path) -> Dataset:
        """Read the file in the folder `root`. Examples keep their order.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        arrays = read_mat(self.files[0], root)

        def upright(name: str) -> UInt8[Tensor, "N 28 28"]:
            return torch.from_numpy(arrays[name].astype("u1")).view(-1, 28, 28).mT.contiguous()

        return Dataset(
            name="caltech101_silhouettes",
            protocol=self.protocol,
            values="static",
            num_levels=2,
            train=upright("train_data"),
            validation=upright("val_data").float(),
            test=upright("test_data").float(),
            files=self.sha256s(),
        )
