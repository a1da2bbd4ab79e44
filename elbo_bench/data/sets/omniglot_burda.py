"""OMNIGLOT as Burda et al. (2016) prepared it: the 28 x 28 images that most published results use."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from elbo_bench.data.dataset import Dataset
from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.reading.grey_source import GreySource
from elbo_bench.data.reading.mat import read_mat

_NUM_TRAIN, _NUM_VALIDATION = 24_345, 1_345


@dataclasses.dataclass(frozen=True, kw_only=True)
class OmniglotBurda(GreySource):
    """`chardata.mat`, 28 x 28 pixels. A pixel is 1 with a probability equal to its grey value in [0, 1].

    The published split has 24,345 training and 8,070 test drawings. It is random, so a character can be in both.
    Validation is the last 1,345 training drawings of a permutation, the one that the authors' code uses.

    Attributes:
        values: How grey values become observations.
        test_binarization: `fixed`: `dynamic` test observations are the same in every run. `resample`: they are drawn
            with the run's seed, as by Burda et al.
    """

    values: Literal["dynamic", "fixed", "threshold"] = "dynamic"
    test_binarization: TestBinarization = "fixed"

    name = "omniglot_burda"
    licence = "none stated; derived from OMNIGLOT, which is MIT"
    citation = "Burda, Grosse, Salakhutdinov, Importance weighted autoencoders, ICLR 2016"
    homepage = "https://github.com/yburda/iwae"
    files = (
        DataFile(
            "omniglot/chardata.mat",
            None,
            ("https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",),
            git_blob="016a3536ffe5e1d38e42563a18d7a78bfaf643ec",
        ),
    )

    splits = (
        f"{_NUM_TRAIN - _NUM_VALIDATION}/{_NUM_VALIDATION}/8070, validation is the end of the authors' "
        "permutation (seed 123) of the training drawings"
    )

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, top=1, test_binarization=self.test_binarization)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the drawings of the file.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        arrays = read_mat(self.files[0], root)
        # Each column is a drawing, and its pixels are stored column by column.
        drawings, test = (
            torch.from_numpy(arrays[name].T.astype("f4")).view(-1, 28, 28).mT.contiguous()
            for name in ("data", "testdata")
        )
        order = torch.from_numpy(np.random.RandomState(123).permutation(_NUM_TRAIN))
        train, validation = drawings[order].split([_NUM_TRAIN - _NUM_VALIDATION, _NUM_VALIDATION])
        return train, validation, test

    def load(self, root: Path) -> Dataset:
        """Read the file in the folder `root`. Its sha256 is not published, so the record gets the one of this file.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        (file,) = self.files
        found = hashlib.sha256(file.read(root)).hexdigest()
        return dataclasses.replace(super().load(root), files={file.path: found})
