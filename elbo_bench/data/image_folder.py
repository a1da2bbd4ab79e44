"""A folder of images of the user's own, decoded one by one by Pillow as bytes."""

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elbo_bench.data.array_files import file_sha256, first_line
from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.progress import ProgressLine

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_SYSTEM_NAMES = ("__macosx", "@eadir", "$recycle.bin", "lost+found")  # in lower case: Windows writes $Recycle.Bin
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_PROGRESS_FROM = 20_000
"""Images, from which on going through them shows a progress line."""


@dataclasses.dataclass(frozen=True)
class ImageArray:
    """The images of a folder as one array of bytes: `[N, H, W]` if they are grey, `[N, 3, H, W]` in colour.

    Pixels are taken as they are stored: what a camera says of its orientation or its colours is not looked at.

    Attributes:
        folder: The folder.
        names: Their paths below it.
        kind: Mode, height and width of all of them.
    """

    folder: Path
    names: tuple[str, ...]
    kind: tuple[str, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N, H, W]` or `[N, 3, H, W]`."""
        mode, height, width = self.kind
        return (len(self.names), *((3,) if mode == "RGB" else ()), height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Truth values if the images have one bit, else bytes."""
        return np.dtype(bool if self.kind[0] == "1" else np.uint8)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return some images.

        Raises:
            RunFailedError: One cannot be decoded, or is of another size or mode than the others; the line names it.
        """
        rows = np.empty((len(ids), *self.shape[1:]), dtype=self.dtype)
        for row, number in zip(rows, ids.tolist(), strict=True):
            place = self.folder / self.names[number]
            try:
                row[...] = _decoded(place, self.kind)
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders have many
                raise RunFailedError(f"image {place} cannot be read: {first_line(error)}") from None
        return rows

    def where(self, row: int) -> str:
        """Return which image a row is, for a message."""
        return f"image {self.folder / self.names[row]}"


def image_names(folder: Path) -> tuple[str, ...]:
    """Return the paths of all images below a folder, relative to it, in the order of their characters.

    Files and folders of the system and hidden ones, whose names start with a dot, are skipped: they may hold copies.

    Raises:
        UsageError: There is none, a folder cannot be listed, or a link leads outside.
    """
    real, names = folder.resolve(), []
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not _skipped(name)]
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise UsageError(f"{Path(parent) / name} is a link to a folder: images are looked for in folders only")
        for name in files:
            place = Path(parent) / name
            if place.suffix.lower() not in SUFFIXES or _skipped(name):
                continue
            if place.is_symlink() and not place.resolve().is_relative_to(real):
                raise UsageError(f"image {place} is a link that leads out of {folder}")
            if not place.is_file():
                raise UsageError(f"image {place} is no file")
            names.append(place.relative_to(folder).as_posix())
    if not names:
        raise UsageError(f"folder {folder} has no image: {' '.join(SUFFIXES)}")
    return tuple(sorted(names))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def folder_sha256(folder: Path, names: Sequence[str]) -> str:
    """Return the sha256 of the images' names and of each one's sha256, a line each, in the order of the names.

    Raises:
        UsageError: An image cannot be read.
    """
    digest = hashlib.sha256()
    title = f"hashing images of {folder.name}"
    with ProgressLine(title, len(names), enabled=len(names) > _PROGRESS_FROM) as line:
        for done, name in enumerate(names, 1):
            digest.update(os.fsencode(name) + f"\0{file_sha256(folder / name)}\n".encode())
            line.update(done)
    return digest.hexdigest()


def image_arrays(folder: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, ImageArray]:
    """Return the images of each split; all have the size and the mode of the first.

    Raises:
        UsageError: An image is no image, or of another size or mode than the first; the line names the first such one.
    """
    names = [name for split in splits.values() for name in split]
    expected: tuple[str, int, int] | None = None
    title = f"looking at images of {folder.name}"
    with ProgressLine(title, len(names), enabled=len(names) > _PROGRESS_FROM) as line:
        for done, name in enumerate(names, 1):
            place = folder / name
            try:
                with _opened(place) as image:
                    kind = _kind(image)
            except Exception as error:  # Pillow's decoders have many
                raise UsageError(f"image {place} cannot be read: {first_line(error)}") from None
            expected = expected or kind
            if kind != expected:
                raise UsageError(
                    f"image {place} is {_words(kind)}, and {folder / names[0]} {_words(expected)}: all are to be alike"
                )
            line.update(done)
    assert expected is not None
    return {split: ImageArray(folder, tuple(some), expected) for split, some in splits.items()}


def _opened(place: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata, which are not looked at
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(place, formats=_FORMATS)


def _kind(image: Image.Image) -> tuple[str, int, int]:
    """Return an image's mode (one bit, grey, or colour, which a palette is if any entry is), height and width."""
    if getattr(image, "n_frames", 1) != 1:
        raise ValueError("it holds several images: save each in a file of its own")
    mode = image.mode
    if mode == "P" and "transparency" not in image.info:
        palette = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        mode = "L" if (palette == palette[:, :1]).all() else "RGB"
    if mode not in ("1", "L", "RGB"):
        raise ValueError(f"its mode is {image.mode}: save it in 8-bit grey (L) or RGB")
    return mode, image.height, image.width


def _decoded(place: Path, expected: tuple[str, int, int]) -> np.ndarray:
    with _opened(place) as image:
        if (kind := _kind(image)) != expected:
            raise ValueError(f"it is {_words(kind)}, the others are {_words(expected)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(image.convert(expected[0]) if image.mode == "P" else image)
    return values.transpose(2, 0, 1) if expected[0] == "RGB" else values


def _words(kind: tuple[str, int, int]) -> str:
    mode, height, width = kind
    return f"{height}x{width} {({'1': 'of one bit', 'L': 'in grey', 'RGB': 'in colour'})[mode]}"


def _unreadable(error: OSError) -> None:
    raise UsageError(f"folder {error.filename} cannot be read: {error.strerror}")
