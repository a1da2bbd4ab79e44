"""Reading the records in folders of runs."""

import os
from collections.abc import Iterable
from pathlib import Path

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row, row
from elbo_bench.results.record import RESULT, read_result


def read_rows(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """Return a row for each record below some folders of runs, and a message for each corrupt record.

    A run without a record is not complete, and is skipped.

    Raises:
        UsageError: A folder does not exist.
    """
    rows: list[Row] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        try:
            found = folder.is_dir()
        except OSError as error:  # the name is too long
            raise UsageError(f"{folder} is not a folder of runs: {error.strerror}") from None
        if not found:
            raise UsageError(f"{folder} is not a folder of runs")
        names = [""] if (folder / RESULT).is_file() else sorted(path.name for path in folder.iterdir())
        for name in names:
            run = folder / name
            try:
                status = os.stat(os.path.join(folder, name, RESULT))  # noqa: PTH116, PTH118 - thousands of them
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:  # a folder that is given twice, or a link
                continue
            seen.add((status.st_dev, status.st_ino))
            try:
                name.encode()  # raises for a name that cannot be printed
                rows.append(row(read_result(run), str(run)))
            except UsageError as error:
                problems.append(str(error))
            except KeyError as error:
                problems.append(f"{run / RESULT}: it has no metric {error}")
            except ValueError as error:
                problems.append(f"{run / RESULT}: {error}")
    return rows, problems
