"""Frey faces: one face in 1,965 frames of a film, in grey levels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from elbo_bench.data.pixels import LogitAlpha, Pixels
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.reading.grey_source import GreySource
from elbo_bench.data.reading.mat import read_mat

_NUM_FRAMES, _HELD_OUT, _GAP = 1965, 200, 30


@dataclass(frozen=True, kw_only=True)
class FreyFaces(GreySource):
    """Brendan Frey's face, 28 x 20 pixels with grey values 8..238, in the order of the film.

    There is no official split. Neighbouring frames are nearly equal. A random split, as in most of the literature, puts
    a near copy of every test frame into the training set: the nearest training frame then differs by 11 grey levels on
    average (root mean square over the pixels), instead of 22. Here each split is a contiguous part of the film. The 30
    frames before and the 30 frames after the validation split are excluded: after 30 frames, a face differs about as
    much as in any two frames.

    Attributes:
        values: How grey values become observations.
        logit_alpha: Distance that `logit` keeps from 0 and 1.
    """

    values: Literal["levels", "dequantised", "logit"] = "levels"
    logit_alpha: LogitAlpha = 1e-6

    name = "freyfaces"
    licence = "none stated; images by Brendan Frey, distributed by Sam Roweis"
    citation = "Roweis, Saul, Hinton, Global coordination of local linear models, NIPS 2001"
    homepage = "https://cs.nyu.edu/~roweis/data.html"
    files = (
        DataFile(
            "freyfaces/frey_rawface.mat",
            "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64",
            ("https://cs.nyu.edu/~roweis/data/frey_rawface.mat",),
            1_100_584,
        ),
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "levels": "8cba16a895c2da0f42619ac5a5497f7e19533ddb9985e6d3b5097a7263381fe9",
        "dequantised": "4e76d12f874f5acb23188f859ba6ca2ab18d9b109658265913309e1018860847",
        "logit": "4338fbe84bc03e7fdf6b3f3eb86ec4b15f7c03d2880f4f8d45c2ecff354d1dcf",
    }

    splits = (
        f"{_NUM_FRAMES - 2 * (_HELD_OUT + _GAP)}/{_HELD_OUT}/{_HELD_OUT} frames in the order of the film, "
        f"{_GAP} excluded between splits"
    )

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, logit_alpha=self.logit_alpha)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frames of the file below `root`.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        columns = read_mat(self.files[0], root)["ff"]
        frames = torch.from_numpy(columns.T.astype("u1").reshape(_NUM_FRAMES, 28, 20))
        test, validation = _NUM_FRAMES - _HELD_OUT, _NUM_FRAMES - 2 * _HELD_OUT - _GAP
        return frames[: validation - _GAP], frames[validation : validation + _HELD_OUT], frames[test:]
