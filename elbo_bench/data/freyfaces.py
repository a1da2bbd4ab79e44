"""One face in 1,965 frames of a film: small, in grey levels, and easy to cheat on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.mat import parse_mat
from elbo_bench.data.pixels import LogitAlpha, Pixels

_NUM_FRAMES, _HELD_OUT, _GAP = 1965, 200, 30


@dataclass(frozen=True, kw_only=True)
class FreyFaces(GreySource):
    """Brendan Frey's face, 28 x 20 pixels with grey values 8..238, in the order of the film.

    There is no official split. Neighbouring frames are nearly equal, so a random split, as most of the literature has
    it, puts a near copy of every test frame into the training set: on average the nearest training frame is some 11
    grey levels away (root mean square over the pixels) rather than 22. Here the splits are contiguous, and 30 frames on
    either side of the validation split, in which a face becomes about as different as in any other two frames, belong
    to none.

    Attributes:
        values: How grey values become observations.
        logit_alpha: How far `logit` stays from 0 and 1.
    """

    values: Literal["levels", "dequantised", "logit"] = "levels"
    logit_alpha: LogitAlpha = 1e-6

    name: ClassVar[str] = "freyfaces"
    licence: ClassVar[str] = "none stated; images by Brendan Frey, distributed by Sam Roweis"
    citation: ClassVar[str] = "Roweis, Saul, Hinton, Global coordination of local linear models, NIPS 2001"
    homepage: ClassVar[str] = "https://cs.nyu.edu/~roweis/data.html"
    files: ClassVar[tuple[DataFile, ...]] = (
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

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        num_train = _NUM_FRAMES - 2 * (_HELD_OUT + _GAP)
        return f"{num_train}/{_HELD_OUT}/{_HELD_OUT} frames in the order of the film, {_GAP} left out between splits"

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, logit_alpha=self.logit_alpha)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frames of the file below `root`.

        Raises:
            UsageError: The file is missing or is not the official one.
        """
        (file,) = self.files
        columns = parse_mat(file.read(root), {"ff": (560, _NUM_FRAMES)}, file.place(root))["ff"]
        frames = torch.from_numpy(columns.T.astype("u1").reshape(_NUM_FRAMES, 28, 20))
        test, validation = _NUM_FRAMES - _HELD_OUT, _NUM_FRAMES - 2 * _HELD_OUT - _GAP
        return frames[: validation - _GAP], frames[validation : validation + _HELD_OUT], frames[test:]
