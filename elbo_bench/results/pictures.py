"""Contact sheets: a grid of grey images in one PNG."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from elbo_bench.results.record import replace_bytes

_GAP = 2  # pixels between two images
_SMALLEST = 48  # pixels along an edge: smaller images are enlarged, without smoothing


def write_sheet(place: Path, images: Float[np.ndarray, "rows columns height width"]) -> None:
    """Write images with values in [0, 1], ink high, as rows of a sheet."""
    rows, columns, height, width = images.shape
    zoom = max(1, -(-_SMALLEST // max(height, width)))
    grey = (255 * np.clip(images, 0, 1)).round().astype(np.uint8).repeat(zoom, 2).repeat(zoom, 3)
    height, width = height * zoom, width * zoom
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), 128, dtype=np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + _GAP), column * (width + _GAP)
            sheet[top : top + height, left : left + width] = grey[row, column]
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    replace_bytes(place, buffer.getvalue())
