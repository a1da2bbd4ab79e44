"""`elbo-bench leaderboard`: rank what was recorded."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from elbo_bench.apps.paths import runs_root
from elbo_bench.apps.terminal import console
from elbo_bench.errors import UsageError
from elbo_bench.output import say
from elbo_bench.report.formats import to_csv, to_json, to_latex, to_markdown
from elbo_bench.report.leaderboard import leaderboard
from elbo_bench.report.read import read_rows
from elbo_bench.report.row import Row
from elbo_bench.report.terminal import print_tables

_TEXT = {"json": to_json, "csv": to_csv, "markdown": to_markdown, "latex": to_latex}


def run(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of some folders of runs, and write its page if one is asked for.

    Raises:
        UsageError: There is no such folder, no record in it, or the page cannot be written.
    """
    folders = [Path(folder) for folder in arguments.runs] or [runs_root()]
    parts = ranked(folders, each_run=arguments.each_run)
    if arguments.html is not None:
        write_page(parts, Path(arguments.html))
    show(parts, arguments.format)


def ranked(folders: Sequence[Path], *, each_run: bool = False) -> list[list[Row]]:
    """Return the leaderboard of some folders; records that are corrupt are named on stderr.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    rows, problems = read_rows(folders)
    for problem in problems:
        say(f"left out: {problem}")
    if not rows:
        raise UsageError(f"there is no record in {', '.join(map(str, folders))}: `elbo-bench train` makes one")
    return leaderboard(rows, each_run=each_run)


def show(parts: Sequence[Sequence[Row]], form: str) -> None:
    """Print a leaderboard in one of its formats."""
    if form == "table":
        print_tables(parts, console(130))
    else:
        print(_TEXT[form](parts).rstrip("\n"))  # noqa: T201


def write_page(parts: Sequence[Sequence[Row]], place: Path) -> None:
    """Write the page of a leaderboard and say where it is.

    Raises:
        UsageError: It cannot be written.
    """
    from elbo_bench.report.page import page  # Altair takes a second to import
    from elbo_bench.results.record import replace_bytes

    try:
        if not place.parent.is_dir() or place.is_dir():
            raise UsageError(f"--html {place}: there is no folder {place.parent}, or a folder of that name")
        replace_bytes(place, page(parts).encode())
    except OSError as error:
        raise UsageError(f"--html {place}: cannot be written: {error.strerror or error}") from None
    say(f"the page of it is {place.resolve()}")
