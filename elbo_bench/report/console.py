"""Printing on a terminal."""

import sys

from rich.console import Console


def console(width: int) -> Console:
    """Return a console for stdout. A pipe or a file gets at least `width` characters a line."""
    shown = Console(highlight=False, file=sys.stdout)  # so that Rich knows its encoding
    if not shown.is_terminal:
        shown.width = max(shown.width, width)
    return shown


def duration(seconds: float) -> str:
    """Return a time in words: `90 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
