"""Contact sheets: a grid of images in one PNG."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from elbo_bench.files import atomic_write

_GAP = 2  # pixels between two images
_SMALLEST = 48  # pixels along an edge; smaller images are enlarged without smoothing


def is_image(shape: Sequence[int]) -> bool:
    """Return whether data of this shape are images: `[H, W]`, or `[C, H, W]` with one channel or three."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def write_sheet(path: Path, images: Float[np.ndarray, "rows columns *image"]) -> None:
    """Write a grid of images, `[H, W]` or `[C, H, W]` with values in [0, 1], as one PNG; 1 is white."""
    rows, columns, *_, height, width = images.shape
    zoom = max(1, -(-_SMALLEST // max(height, width)))
    pixels = (255 * np.clip(images, 0, 1)).round().astype(np.uint8).reshape(rows, columns, -1, height, width)
    pixels = np.moveaxis(pixels, 2, -1).repeat(zoom, 2).repeat(zoom, 3)
    height, width, depth = height * zoom, width * zoom, pixels.shape[-1]
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, depth), 128, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = pixels[row, column]
    buffer = io.BytesIO()
    Image.fromarray(sheet[..., 0] if depth == 1 else sheet).save(buffer, format="PNG")
    with atomic_write(path) as new:
        new.write_bytes(buffer.getvalue())
