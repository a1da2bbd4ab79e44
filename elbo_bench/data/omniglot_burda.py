"""OMNIGLOT as Burda et al. (2016) made it: the 28 x 28 set that most published numbers stand on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.data.mat import parse_mat
from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.errors import UsageError

_NUM_TRAIN, _NUM_VALIDATION, _NUM_TEST = 24_345, 1_345, 8_070


@dataclass(frozen=True, kw_only=True)
class OmniglotBurda(DataSource):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._pixels  # refuses what does not fit together

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how values become observations."""
        return (
            f"{_NUM_TRAIN - _NUM_VALIDATION}/{_NUM_VALIDATION}/{_NUM_TEST}, validation is the end of the authors' "
            f"permutation (seed 123) of the training drawings; {self._pixels.words}"
        )

    @property
    def _pixels(self) -> Pixels:
        return Pixels(self.values, top=1, test_binarization=self.test_binarization)

    def load(self, root: Path) -> Dataset:
        """Read the file below `root`.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        (file,) = self.files
        content = file.read(root)
        whole, test = parse_chardata(content, file.place(root))
        order = torch.from_numpy(np.random.RandomState(123).permutation(_NUM_TRAIN))
        train, validation = whole[order].split([_NUM_TRAIN - _NUM_VALIDATION, _NUM_VALIDATION])
        files = {file.path: hashlib.sha256(content).hexdigest()}
        return self._pixels.dataset("omniglot_burda", self.protocol, (train, validation, test), files)


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
