"""The lock on a run's folder, so that two processes do not compute the same run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from elbo_bench.errors import BusyError, UsageError

_LOCK = ".lock"
_SECONDS = 0.1
"""How long a process tries. `is_claimed` itself holds the lock for an instant."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make a run's folder if it does not exist, and lock it for this process.

    The lock ends with the process, even if the process is killed.

    Raises:
        BusyError: Another process holds the lock.
        UsageError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=_SECONDS, poll_interval=_SECONDS / 5).acquire()
    except Timeout:
        raise BusyError(f"{folder} is being computed by another process") from None
    except OSError as error:
        raise UsageError(f"run folder {folder} cannot be made: {error.strerror or error}") from None
    with lock:
        yield


def is_claimed(folder: Path) -> bool:
    """Return whether a process holds the lock on a run's folder at this moment."""
    if not (folder / _LOCK).is_file():
        return False
    try:
        with FileLock(folder / _LOCK, timeout=_SECONDS, poll_interval=_SECONDS / 5):
            return False
    except OSError:  # Timeout is one
        return True
