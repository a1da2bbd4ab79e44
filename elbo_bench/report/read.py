"""Folders of runs, read: a row for each record, and a line for each that is corrupt."""

import os
from collections.abc import Iterable
from pathlib import Path

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row, contract, row
from elbo_bench.results.record import RESULT, read_result


def read_rows(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    """Return a row for each record below some folders of runs, and a line for each that is corrupt.

    A run without a record is not done, and neither ranked nor corrupt.

    Raises:
        UsageError: A folder does not exist.
    """
    rows: list[Row] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        try:
            found = folder.is_dir()
        except OSError as error:  # a name that is too long
            raise UsageError(f"{folder} is not a folder of runs: {error.strerror}") from None
        if not found:
            raise UsageError(f"{folder} is not a folder of runs")
        names = [""] if (folder / RESULT).is_file() else sorted(place.name for place in folder.iterdir())
        for name in names:
            run = folder / name
            try:
                status = os.stat(os.path.join(folder, name, RESULT))  # noqa: PTH116, PTH118 - thousands of them
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in seen:  # named twice, or a link
                continue
            seen.add((status.st_dev, status.st_ino))
            try:
                name.encode()  # what is no text cannot be printed
                result = read_result(run)
                rows.append({**row(result), "contract": contract(result), "folder": str(run)})
            except UsageError as error:
                problems.append(str(error))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                problems.append(f"{run / RESULT} is not a result: {type(error).__name__} at {error}")
    return rows, problems
