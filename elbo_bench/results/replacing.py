"""`--force`: a run is computed again in a subfolder, which replaces the record only when it is complete."""

import shutil
from pathlib import Path

from elbo_bench.errors import RunFailedError
from elbo_bench.results.record import RESULT

FORCED = ".forced"
"""Subfolder of a run's folder in which the run is computed again."""


def finish_replacing(folder: Path) -> None:
    """Replace a run's files by those that were computed again, if they are complete.

    `result.json` moves last. If the process is killed in between, the run has no record, and the next call moves the
    rest. Files that were not computed again, such as further evaluations, stay.

    Raises:
        RunFailedError: A file cannot be moved.
    """
    forced = folder / FORCED
    if not (forced / RESULT).is_file():
        return
    try:
        (folder / RESULT).unlink(missing_ok=True)  # so that a record never stands beside another one's files
        for path in sorted(forced.iterdir(), key=lambda path: path.name == RESULT):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        forced.rmdir()
    except OSError as error:
        raise RunFailedError(f"{forced} cannot replace {folder}: {error.strerror or error}") from None
