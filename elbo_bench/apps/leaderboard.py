"""`elbo-bench leaderboard`: rank what was recorded."""

import argparse
import sys
from pathlib import Path

from elbo_bench.apps.paths import runs_root
from elbo_bench.apps.terminal import console
from elbo_bench.errors import UsageError
from elbo_bench.report.formats import print_tables, to_csv, to_json, to_markdown
from elbo_bench.report.leaderboard import leaderboard, read_runs


def run(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of some folders of runs.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    show([Path(folder) for folder in arguments.runs] or [runs_root()], arguments.format)


def show(folders: list[Path], form: str) -> None:
    """Print the leaderboard in one of its formats; records that are corrupt are named on stderr.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    results, problems = read_runs(folders)
    for problem in problems:
        print(f"elbo-bench: left out: {problem}", file=sys.stderr)  # noqa: T201
    if not results:
        raise UsageError(f"there is no record in {', '.join(map(str, folders))}: `elbo-bench train` makes one")
    parts = leaderboard(results)
    if form == "table":
        print_tables(parts, console(130))
        return
    text = {"json": to_json, "csv": to_csv, "markdown": to_markdown}[form](parts)
    print(text.rstrip("\n"))  # noqa: T201
