"""The claim of a process on a run's folder: who else would compute the same run is told, and waits or turns away."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from elbo_bench.errors import BusyError, UsageError

_LOCK = ".lock"
_TRIES = 4
"""One who only looks holds the lock for an instant: what is busy is asked again so often, 20 ms apart."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be, against others that would compute it at the same time.

    The claim ends with the process, however it ends.

    Raises:
        BusyError: Another process holds it.
        UsageError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise UsageError(f"run folder {folder} cannot be made: {error.strerror or error}") from None
    with lock:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not left:
                    raise BusyError(f"{folder} is being computed by another process") from None
                time.sleep(0.02)
        yield


def is_claimed(folder: Path) -> bool:
    """Return whether a process holds a run's folder at this moment."""
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return False
