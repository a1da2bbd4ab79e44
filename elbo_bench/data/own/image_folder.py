"""A folder of the user's own images. Pillow decodes each image on demand, as bytes."""

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elbo_bench.data.own.array_files import file_sha256, first_line
from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.progress import ProgressLine

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_SYSTEM_NAMES = ("__macosx", "@eadir", "$recycle.bin", "lost+found")  # in lower case: Windows writes $Recycle.Bin
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_PROGRESS_FROM = 20_000
"""Above this number of images, a progress line is shown."""


@dataclasses.dataclass(frozen=True)
class ImageArray:
    """Images of a folder as one array of bytes: `[N, H, W]` if they are grey, `[N, 3, H, W]` in colour.

    Pixels are used as stored. A camera's notes on orientation and colour profile are ignored.

    Attributes:
        folder: The folder.
        names: Paths of the images below the folder.
        kind: Pillow's mode, height and width of every image.
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
        """Booleans if the images have one bit per pixel, otherwise bytes."""
        return np.dtype(bool if self.kind[0] == "1" else np.uint8)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return the images with these numbers.

        Raises:
            RunFailedError: An image cannot be decoded, or differs in size or mode. The message names it.
        """
        images = np.empty((len(ids), *self.shape[1:]), dtype=self.dtype)
        for image, number in zip(images, ids.tolist(), strict=True):
            path = self.folder / self.names[number]
            try:
                image[...] = _decoded(path, self.kind)
            except Exception as error:  # Pillow's decoders raise many kinds
                raise RunFailedError(f"image {path} cannot be read: {first_line(error)}") from None
        return images

    def where(self, example: int) -> str:
        """Return the path of an image, for a message."""
        return f"image {self.folder / self.names[example]}"


def image_names(folder: Path) -> tuple[str, ...]:
    """Return the sorted paths of all images below a folder, relative to it.

    Hidden files and folders, whose names start with a dot, and those of the operating system are skipped: they may hold
    copies.

    Raises:
        UsageError: The folder has no image, a folder cannot be listed, or a link leads outside.
    """
    real, names = folder.resolve(), []
    for parent, folders, files in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not _skipped(name)]
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise UsageError(f"{Path(parent) / name} is a link to a folder: links to folders are not supported")
        for name in files:
            path = Path(parent) / name
            if path.suffix.lower() not in SUFFIXES or _skipped(name):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                raise UsageError(f"image {path} is a link that leads out of {folder}")
            if not path.is_file():
                raise UsageError(f"image {path} is not a file")
            names.append(path.relative_to(folder).as_posix())
    if not names:
        raise UsageError(f"folder {folder} has no image: {' '.join(SUFFIXES)}")
    return tuple(sorted(names))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def folder_sha256(folder: Path, names: Sequence[str]) -> str:
    """Return the sha256 of a text with one line per image: its name and the sha256 of its file.

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
    """Return the images of each split. All must have the size and the mode of the first image.

    Raises:
        UsageError: A file is not an image, or differs in size or mode. The message names it.
    """
    names = [name for split in splits.values() for name in split]
    expected: tuple[str, int, int] | None = None
    title = f"checking images of {folder.name}"
    with ProgressLine(title, len(names), enabled=len(names) > _PROGRESS_FROM) as line:
        for done, name in enumerate(names, 1):
            path = folder / name
            try:
                with _opened(path) as image:
                    kind = _kind(image)
            except Exception as error:  # Pillow's decoders raise many kinds
                raise UsageError(f"image {path} cannot be read: {first_line(error)}") from None
            expected = expected or kind
            if kind != expected:
                raise UsageError(f"image {path} is {_words(kind)}, but {folder / names[0]} is {_words(expected)}")
            line.update(done)
    assert expected is not None
    return {split: ImageArray(folder, tuple(some), expected) for split, some in splits.items()}


def _opened(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata, which is ignored
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=_FORMATS)


def _kind(image: Image.Image) -> tuple[str, int, int]:
    """Return an image's mode, height and width. A palette of greys is grey; any other palette is colour."""
    if getattr(image, "n_frames", 1) != 1:
        raise ValueError("it holds several images: save each image as one file")
    mode = image.mode
    if mode == "P" and "transparency" not in image.info:
        palette = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
        mode = "L" if (palette == palette[:, :1]).all() else "RGB"
    if mode not in ("1", "L", "RGB"):
        raise ValueError(f"its mode is {image.mode}: save it in 8-bit grey (L) or RGB")
    return mode, image.height, image.width


def _decoded(path: Path, expected: tuple[str, int, int]) -> np.ndarray:
    with _opened(path) as image:
        if (kind := _kind(image)) != expected:
            raise ValueError(f"it is {_words(kind)}, but the other images are {_words(expected)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(image.convert(expected[0]) if image.mode == "P" else image)
    return values.transpose(2, 0, 1) if expected[0] == "RGB" else values


def _words(kind: tuple[str, int, int]) -> str:
    mode, height, width = kind
    return f"{height}x{width} {({'1': '1-bit', 'L': 'grey', 'RGB': 'colour'})[mode]}"


def _unreadable(error: OSError) -> None:
    raise UsageError(f"folder {error.filename} cannot be read: {error.strerror}")
