"""`elbo-bench leaderboard`: rank what was recorded."""

import argparse
import sys
from pathlib import Path

from elbo_bench.apps.paths import runs_root
from elbo_bench.apps.terminal import console
from elbo_bench.errors import UsageError
from elbo_bench.report.formats import print_tables, to_csv, to_json, to_markdown
from elbo_bench.report.leaderboard import COLUMNS, leaderboard, read_runs
from elbo_bench.report.over_seeds import SEED_COLUMNS, over_seeds


def run(arguments: argparse.Namespace) -> None:
    """Print the leaderboard of some folders of runs.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    folders = [Path(folder) for folder in arguments.runs] or [runs_root()]
    show(folders, arguments.format, seeds_together=arguments.over_seeds)


def show(folders: list[Path], form: str, *, seeds_together: bool = False) -> None:
    """Print the leaderboard in one of its formats; records that are corrupt are named on stderr.

    Raises:
        UsageError: There is no such folder, or no record in it.
    """
    results, problems = read_runs(folders)
    for problem in problems:
        print(f"elbo-bench: left out: {problem}", file=sys.stderr)  # noqa: T201
    if not results:
        raise UsageError(f"there is no record in {', '.join(map(str, folders))}: `elbo-bench train` makes one")
    parts, columns = leaderboard(results), COLUMNS
    if seeds_together:
        parts, columns = over_seeds(parts), SEED_COLUMNS
    if form == "table":
        print_tables(parts, console(130), columns)
        return
    text = to_markdown(parts, columns) if form == "markdown" else {"json": to_json, "csv": to_csv}[form](parts)
    print(text.rstrip("\n"))  # noqa: T201
