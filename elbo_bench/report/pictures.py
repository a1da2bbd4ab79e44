"""Samples and reconstructions of runs, embedded in the page."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from elbo_bench.report.shown import Shown

_SHEETS = {"samples": "samples of the model", "reconstructions": "test examples, each above its reconstruction"}
_WIDEST = 480  # pixels
_LARGEST_FILE = 4 * 2**20
_LARGEST_SIDE = 6000


class Pictures:
    """Turns the pictures of runs into data URLs, until the page is full.

    Args:
        room: Largest number of bytes of all pictures of a page together.
    """

    def __init__(self, room: int = 700_000) -> None:
        self._room = room

    def of(self, shown: Shown) -> list[dict[str, Any]]:
        """Return the pictures of the series of one contract, of one seed each, best first."""
        found = []
        for each in shown.series:
            folder = Path(each.row.folders[0])
            images = []
            for name, meaning in _SHEETS.items():
                address = self._address(folder / f"{name}.png")
                if address is not None:
                    images.append({"address": address, "meaning": meaning})
            if images:
                found.append({"label": each.label, "images": images})
        return found

    def _address(self, path: Path) -> str | None:
        """Return a PNG file, encoded again, as a data URL; None if it is damaged or the page is full."""
        try:
            if path.stat().st_size > _LARGEST_FILE:
                return None
            with Image.open(path, formats=["PNG"]) as image:
                if max(image.size) > _LARGEST_SIDE:
                    return None
                small = image.convert("L" if image.mode in ("1", "L", "LA", "I", "I;16") else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        if small.width > _WIDEST:
            small = small.resize((_WIDEST, max(1, round(small.height * _WIDEST / small.width))), Image.Resampling.BOX)
        buffer = io.BytesIO()
        small.quantize(32 if small.mode == "L" else 128).save(buffer, format="PNG", optimize=True)
        text = base64.b64encode(buffer.getvalue()).decode("ascii")
        if len(text) > self._room:
            return None
        self._room -= len(text)
        return f"data:image/png;base64,{text}"
