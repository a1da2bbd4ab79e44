"""The terminal that results are printed on."""

from rich.console import Console


def console(width: int) -> Console:
    """Return a console for stdout; a pipe or a file, which has no width of its own, is given `width` at least."""
    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = max(shown.width, width)
    return shown
