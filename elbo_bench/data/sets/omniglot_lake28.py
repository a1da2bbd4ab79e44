"""OMNIGLOT from the original drawings, reduced to 28 x 28 here. The set of Burda et al. is `omniglot_burda`."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.reading.grey_source import GreySource

_MIRROR = "https://raw.githubusercontent.com/bitsandscraps/omniglot/9514cfd6780ed78e96a4d88bae8c85f3ee31359e"
_DRAWERS, _SIDE, _SMALL = 20, 105, 28
_PARTS = 4  # a drawing's pixel has 4 parts along a side, so that 15 of them make one small pixel: 105 * 4 = 28 * 15
_WIDTH = _SIDE * _PARTS // _SMALL
_TOP = _WIDTH**2


@dataclass(frozen=True, kw_only=True)
class OmniglotLake28(GreySource):
    """The 32,460 drawings of Lake et al. (2015), 105 x 105 pixels of ink or paper, as 28 x 28 grey values.

    A small pixel covers 3.75 x 3.75 pixels of a drawing. Its grey value is the area of ink in 225ths, an integer, so
    the images are the same on every machine. This is **not** the data set of Burda et al. (2016), which also has
    28 x 28 pixels: see `omniglot_burda`. Results on the two are not comparable.

    Train and test are the authors' background and evaluation sets, which share no alphabet. The last 96 characters of
    the background set are the validation split.

    Attributes:
        values: How grey values 0..225 become observations.
        test_binarization: `fixed`: `dynamic` test observations are the same in every run. `resample`: they are drawn
            with the run's seed.
    """

    values: Literal["dynamic", "fixed", "threshold", "levels"] = "dynamic"
    test_binarization: TestBinarization = "fixed"

    name = "omniglot_lake28"
    licence = "MIT"
    citation = (
        "Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction, "
        "Science 350(6266), 2015"
    )
    homepage = "https://github.com/brendenlake/omniglot"
    files = (
        DataFile(
            "omniglot/images_background.npz",
            "8bf84167413cd00beacdce3fe582f780ab538d8dbef043a6d688f2527bbce199",
            (f"{_MIRROR}/images_background.npz",),
            3_340_794,
        ),
        DataFile(
            "omniglot/images_evaluation.npz",
            "0b84c7ffd94c4841c0040e529c86a82eaaccb986d8eadad5673f7991b7475276",
            (f"{_MIRROR}/images_evaluation.npz",),
            2_415_269,
        ),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "dynamic": "8ecb5eb17e41715c50a29698f0499f00be6eabb2debdd9947625394e1b4e9285",
        "fixed": "8ecb5eb17e41715c50a29698f0499f00be6eabb2debdd9947625394e1b4e9285",
        "threshold": "bc5eccbb99f8c8ffcad7b42679199aab9084d819aa9671f0a9a05f829fd372bb",
        "levels": "c54fc5633fa712fe3cbf1cb3f1653f828dec0b6c774cfcd5fa803e4968f7ccea",
    }

    splits = (
        "17360/1920/13180: the background set, its last 96 characters for validation, and the evaluation set of "
        "Lake et al., grey = ink in 225ths of a 28 x 28 grid (not Burda's OMNIGLOT)"
    )

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, top=_TOP, test_binarization=self.test_binarization)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the drawings of the two files, in the order of the files.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        background, evaluation = (
            _small(np.load(io.BytesIO(file.read(root)), allow_pickle=False)["images"].reshape(-1, _SIDE, _SIDE))
            for file in self.files
        )
        train, validation = background.split([868 * _DRAWERS, 96 * _DRAWERS])
        return train, validation, evaluation


def _small(paper: Bool[np.ndarray, "N 105 105"]) -> UInt8[Tensor, "N 28 28"]:
    """Return the area of ink in each pixel of a 28 x 28 grid, in 225ths."""
    # weight[i, j]: how many of the four parts of pixel j, along one axis, belong to small pixel i.
    weight = torch.zeros(_SMALL, _SIDE)
    for part in range(_SIDE * _PARTS):
        weight[part // _WIDTH, part // _PARTS] += 1
    # Integers below 2^24: the products are exact in float32, in any order of summation.
    blocks = [weight @ (~torch.from_numpy(some)).float() @ weight.T for some in np.array_split(paper, 64)]
    return torch.cat(blocks).byte()
