"""Where runs and sweep files lie."""

import os
from pathlib import Path

from elbo_bench.catalogue import conf_root
from elbo_bench.errors import UsageError, nearest


def runs_root() -> Path:
    """Return the folder of runs: `ELBO_BENCH_RUNS`, or `runs` below the current folder.

    Raises:
        UsageError: It begins with the home of nobody.
    """
    named = os.environ.get("ELBO_BENCH_RUNS") or "runs"
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise UsageError(f"ELBO_BENCH_RUNS={named}: there is no such home") from None


def find_sweep(name: str) -> Path:
    """Return a sweep file: a path, or the name of one that travels with the package.

    Raises:
        UsageError: There is none; the line names the nearest one.
    """
    place = Path(name)
    try:
        if place.is_file():
            return place
    except OSError as error:  # a name that is too long
        raise UsageError(f"{name}: no such sweep file: {error.strerror}") from None
    own = conf_root().parent / "sweeps"
    if place.parent in (Path("sweeps"), Path()) and (own / place.name).is_file():
        return own / place.name
    raise UsageError(
        f"{name}: no such sweep file; {nearest(name, [f'sweeps/{each.name}' for each in own.glob('*.yaml')])}"
    )
