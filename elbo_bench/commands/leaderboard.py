"""`elbo-bench leaderboard`: rank recorded runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from elbo_bench.errors import UsageError
from elbo_bench.files import atomic_write, runs_root
from elbo_bench.output import say
from elbo_bench.report.console import console
from elbo_bench.report.formats import to_csv, to_json, to_latex, to_markdown
from elbo_bench.report.leaderboard import leaderboard
from elbo_bench.report.read import read_rows
from elbo_bench.report.row import Row
from elbo_bench.report.terminal import print_tables

_TEXT = {"json": to_json, "csv": to_csv, "markdown": to_markdown, "latex": to_latex}


def run(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of some folders of runs, and write its page with `--html`.

    Raises:
        UsageError: A folder does not exist, there is no record, or the page cannot be written.
    """
    folders = [Path(folder) for folder in arguments.runs] or [runs_root()]
    parts = ranked(folders, each_run=arguments.each_run)
    if arguments.html is not None:
        write_page(parts, Path(arguments.html))
    show(parts, arguments.format)


def ranked(folders: Sequence[Path], *, each_run: bool = False) -> list[list[Row]]:
    """Return the leaderboard of some folders. Corrupt records are excluded and named on stderr.

    Raises:
        UsageError: A folder does not exist, or there is no record.
    """
    rows, problems = read_rows(folders)
    for problem in problems:
        say(f"excluded: {problem}")
    if not rows:
        raise UsageError(f"there is no record in {', '.join(map(str, folders))}: `elbo-bench train` makes one")
    return leaderboard(rows, each_run=each_run)


def show(parts: Sequence[Sequence[Row]], form: str) -> None:
    """Print a leaderboard in a format: `table`, `json`, `csv`, `markdown` or `latex`."""
    if form == "table":
        print_tables(parts, console(130))
    else:
        print(_TEXT[form](parts).rstrip("\n"))  # noqa: T201


def write_page(parts: Sequence[Sequence[Row]], path: Path) -> None:
    """Write the page of a leaderboard, and print its path.

    Raises:
        UsageError: The page cannot be written.
    """
    from elbo_bench.report.page import page  # Altair takes a second to import

    try:
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"--html {path}: the folder {path.parent} does not exist, or this is a folder")
        with atomic_write(path) as new:
            new.write_text(page(parts), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error.strerror or error}") from None
    say(f"page written to {path.resolve()}")
