"""The folder of runs, sweep files by name, and files that are written completely or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elbo_bench.config.catalogue import conf_root
from elbo_bench.errors import UsageError, nearest


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write a file to. After the block, that file replaces the file at `path`.

    Another process, or a crash, finds the old file or the new file, and never a part of one. An error in the block
    leaves the old file unchanged.

    Raises:
        OSError: The file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        new = Path(folder) / path.name
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def runs_root() -> Path:
    """Return the folder of runs: `ELBO_BENCH_RUNS`, or `runs` below the current folder.

    Raises:
        UsageError: `ELBO_BENCH_RUNS` starts with `~` or `~user`, and that home folder does not exist.
    """
    named = os.environ.get("ELBO_BENCH_RUNS") or "runs"
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise UsageError(f"ELBO_BENCH_RUNS={named}: home folder not found") from None


def find_sweep(name: str) -> Path:
    """Return the path of a sweep file. `name` is a path, or the name of a sweep that comes with the package.

    Raises:
        UsageError: The file does not exist. The message suggests the name that is most similar.
    """
    path = Path(name)
    try:
        if path.is_file():
            return path
    except OSError as error:  # the name is too long
        raise UsageError(f"{name}: no such sweep file: {error.strerror}") from None
    packaged = conf_root().parent / "sweeps"
    if path.parent in (Path("sweeps"), Path()) and (packaged / path.name).is_file():
        return packaged / path.name
    raise UsageError(
        f"{name}: no such sweep file; {nearest(name, [f'sweeps/{each.name}' for each in packaged.glob('*.yaml')])}"
    )
