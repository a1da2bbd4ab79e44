"""OMNIGLOT from the original drawings, made 28 x 28 here: not the set of the importance-weighted autoencoder."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from elbo_bench.data.array_files import LONGEST_HEADER, npy_header
from elbo_bench.data.files import DataFile
from elbo_bench.data.grey_source import GreySource
from elbo_bench.data.pixels import Pixels, TestBinarization
from elbo_bench.errors import UsageError

_MIRROR = "https://raw.githubusercontent.com/bitsandscraps/omniglot/9514cfd6780ed78e96a4d88bae8c85f3ee31359e"
_DRAWERS, _SIDE, _SMALL = 20, 105, 28
_PARTS = 4  # a drawing's pixel has 4 parts along a side, so that 15 of them make one small pixel: 105 * 4 = 28 * 15
_WIDTH = _SIDE * _PARTS // _SMALL
_TOP = _WIDTH**2


@dataclass(frozen=True, kw_only=True)
class OmniglotLake28(GreySource):
    """The 32,460 drawings of Lake et al. (2015), 105 x 105 pixels of ink or paper, as 28 x 28 grey values.

    A small pixel covers 3.75 x 3.75 pixels of a drawing; its grey value is the ink within, a whole number of 225
    parts, so the images are the same on every machine. It is **not** the data of Burda et al. (2016), who also used
    28 x 28 pixels: `omniglot_burda` is that set, made by others in another way and split at random. Numbers of the two
    are not comparable.

    Train and test are the authors' background and evaluation sets: no character, and no alphabet, is in both. The last
    96 characters of the background set are the validation split.

    Attributes:
        values: How grey values 0..225 become observations.
        test_binarization: Whether `dynamic` test observations are the same in every run, or drawn with its seed.
    """

    values: Literal["dynamic", "fixed", "threshold", "levels"] = "dynamic"
    test_binarization: TestBinarization = "fixed"

    name: ClassVar[str] = "omniglot_lake28"
    licence: ClassVar[str] = "MIT"
    citation: ClassVar[str] = (
        "Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction, "
        "Science 350(6266), 2015"
    )
    homepage: ClassVar[str] = "https://github.com/brendenlake/omniglot"
    files: ClassVar[tuple[DataFile, ...]] = (
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

    @property
    def splits(self) -> str:
        """What the splits are, in a few words."""
        return (
            "17360/1920/13180: the background set, its last 96 characters for validation, and the evaluation set of "
            "Lake et al., grey = ink in 225ths of a 28 x 28 grid (not Burda's OMNIGLOT)"
        )

    @property
    def pixels(self) -> Pixels:
        """How grey values become observations."""
        return Pixels(self.values, top=_TOP, test_binarization=self.test_binarization)

    def read(self, root: Path) -> tuple[Tensor, Tensor, Tensor]:
        """Return the drawings of the two files below `root`; characters and drawers keep their order.

        Raises:
            UsageError: A file is missing or is not the official one.
        """
        background, evaluation = (
            _small(parse_drawings(file.read(root), num_characters, file.place(root)))
            for file, num_characters in zip(self.files, (964, 659), strict=True)
        )
        train, validation = background.split([868 * _DRAWERS, 96 * _DRAWERS])
        return train, validation, evaluation


def parse_drawings(content: bytes, num_characters: int, place: Path) -> Bool[np.ndarray, "N 105 105"]:
    """Return the drawings of an `.npz` file, True where there is paper.

    Args:
        content: The file's bytes.
        num_characters: How many it must have, each drawn twenty times.
        place: The file, for the message.

    Raises:
        UsageError: The file is no `.npz` file, or its `images` are others.
    """
    shape = (num_characters, _DRAWERS, _SIDE, _SIDE)
    try:
        # What a header says is looked at before anything is allocated because of it; nothing is unpickled.
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open("images.npy") as member:
            found, _, dtype, _ = npy_header(member.read(LONGEST_HEADER), f"data file {place}")
        if found != shape or dtype != np.bool_:
            raise UsageError(f"data file {place} says that its images are {found} {dtype}, expected {shape} bool")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            images: np.ndarray = arrays["images"]
    except UsageError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy's parser each have their own
        raise UsageError(f"data file {place} is not a valid .npz file of images: {error}") from None
    return images.reshape(-1, _SIDE, _SIDE)


def _small(paper: Bool[np.ndarray, "N 105 105"]) -> UInt8[Tensor, "N 28 28"]:
    """Return the ink of each pixel of a 28 x 28 grid, in 225ths."""
    # How many of the four parts of pixel j, along one axis, belong to small pixel i.
    weight = torch.zeros(_SMALL, _SIDE)
    for part in range(_SIDE * _PARTS):
        weight[part // _WIDTH, part // _PARTS] += 1
    # Whole numbers below 2^24: these products are exact in float32, in whatever order they are summed.
    blocks = [weight @ (~torch.from_numpy(some)).float() @ weight.T for some in np.array_split(paper, 64)]
    return torch.cat(blocks).byte()
