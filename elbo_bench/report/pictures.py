"""Samples and reconstructions of runs, small enough to travel within a page."""

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
    """Creates what turns the sheets of runs into data addresses, as long as there is room.

    Args:
        room: Bytes of all pictures of a page together.
    """

    def __init__(self, room: int = 700_000) -> None:
        self._room = room

    def of(self, shown: Shown) -> list[dict[str, Any]]:
        """Return the sheets of the series of one contract, one seed of each, best first."""
        found = []
        for each in shown.series:
            folder = Path(each.row["folders"][0])
            images = []
            for name, meaning in _SHEETS.items():
                address = self._address(folder / f"{name}.png")
                if address is not None:
                    images.append({"address": address, "meaning": meaning})
            if images:
                found.append({"label": each.label, "images": images})
        return found

    def _address(self, place: Path) -> str | None:
        """Return a picture, drawn anew, as an address; None if it is none, or there is no room for it."""
        try:
            if place.stat().st_size > _LARGEST_FILE:
                return None
            with Image.open(place, formats=["PNG"]) as image:
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
