"""OMNIGLOT as Burda et al. (2016) made it: the 28 x 28 set that most published numbers stand on."""

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data.dataset import Dataset
from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.mat import parse_mat
from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.errors import UsageError

_NUM_TRAIN, _NUM_VALIDATION, _NUM_TEST = 24_345, 1_345, 8_070


@dataclasses.dataclass(frozen=True, kw_only=True)
class OmniglotBurda(GreySource):
    """`chardata.mat`, 28 x 28 pixels with grey values in [0, 1]; grey is the probability of ink.

    The published split holds 24,345 training and 8,070 test drawings, divided at random, so characters are in both.
    Of a permutation of the training drawings the last 1,345 are kept for validation: the one of the authors' code.

    Attributes:
        values: How grey values become observations.
        test_binarization: Whether `dynamic` test observations are the same in every run, or, as Burda et al. have it,
            drawn with its seed.
    """

    values: Literal["dynamic", "fixed", "threshold"] = "dynamic"
    test_binarization: TestBinarization = "fixed"

    name: ClassVar[str] = "omniglot_burda"
    licence: ClassVar[str] = "none stated; derived from OMNIGLOT, which is MIT"
    citation: ClassVar[str] = "Burda, Grosse, Salakhutdinov, Importance weighted autoencoders, ICLR 2016"
    homepage: ClassVar[str] = "https://github.com/yburda/iwae"
    files: ClassVar[tuple[DataFile, ...]] = (
        DataFile(
            "omniglot/chardata.mat",
            None,
            ("https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",),
            git_blob="016a3536ffe5e1d38e42563a18d7a78bfaf643ec",
        ),
    )

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        return (
            f"{_NUM_TRAIN - _NUM_VALIDATION}/{_NUM_VALIDATION}/{_NUM_TEST}, validation is the end of the authors' "
            "permutation (seed 123) of the training drawings"
        )

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, top=1, test_binarization=self.test_binarization)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the drawings of the file below `root`.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        (file,) = self.files
        whole, test = parse_chardata(file.read(root), file.place(root))
        order = torch.from_numpy(np.random.RandomState(123).permutation(_NUM_TRAIN))
        train, validation = whole[order].split([_NUM_TRAIN - _NUM_VALIDATION, _NUM_VALIDATION])
        return train, validation, test

    def load(self, root: Path) -> Dataset:
        """Read the file below `root`, whose sha256 nobody has published.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        (file,) = self.files
        found = hashlib.sha256(file.read(root)).hexdigest()
        return dataclasses.replace(super().load(root), files={file.path: found})


def parse_chardata(content: bytes, place: Path) -> tuple[Float[Tensor, "N 28 28"], Float[Tensor, "M 28 28"]]:
    """Return the training and the test drawings of `chardata.mat`, upright, with grey values in [0, 1].

    The file has a drawing in each column of `data [784, N]` and `testdata [784, M]`, its pixels column by column.

    Raises:
        UsageError: The file is another one, or a value is no probability.
    """
    arrays = parse_mat(content, {"data": (784, _NUM_TRAIN), "testdata": (784, _NUM_TEST)}, place)
    whole, test = (
        torch.from_numpy(arrays[name].T.astype("f4")).view(-1, 28, 28).mT.contiguous() for name in ("data", "testdata")
    )
    for name, values in (("data", whole), ("testdata", test)):
        if not bool(((values >= 0) & (values <= 1)).all()):  # NaN is neither
            raise UsageError(f"data file {place}: its {name} holds a value that is no grey value in [0, 1]")
    return whole, test
