"""Progress of long tasks: a bar on a terminal, otherwise a line every few seconds."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from elbo_bench.errors import printable


class ProgressLine:
    """Shows the progress of one task on stderr.

    Args:
        title: Name of the task.
        total: Number of steps. None if it is not known yet.
        enabled: Whether progress is shown. Only rank 0 shows it.
        seconds: Time between two lines.
    """

    def __init__(self, title: str, total: int | None, *, enabled: bool = True, seconds: float = 10.0) -> None:
        title = printable(title)
        self._title, self._total, self._enabled, self._seconds = title, total, enabled, seconds
        self._bar: Progress | None = None
        self._started = self._shown = time.monotonic()
        self._done = 0
        self._note = ""

    def __enter__(self) -> "ProgressLine":
        if self._enabled and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` steps are done. `total` sets the number of steps."""
        self._done, self._note = done, note
        self._total = self._total if total is None else total
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, note=note)
        elif time.monotonic() - self._shown >= self._seconds:
            self._print()

    def due(self) -> bool:
        """Return whether the next update will be shown. Use it to skip a note that is expensive to compute."""
        return self._enabled and time.monotonic() - self._shown >= (0.2 if self._bar is not None else self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._enabled and kind is None:
            self._print()

    def _print(self) -> None:
        self._shown = time.monotonic()
        parts = [f"{self._title}: {self._done}/{self._total or '?'}", f"{self._shown - self._started:.0f} s"]
        print(", ".join([*parts, self._note] if self._note else parts), file=sys.stderr, flush=True)  # noqa: T201
