"""Upstream data files: where they lie, and that they are the official ones."""

import dataclasses
import hashlib
import os
from pathlib import Path

from elbo_bench.errors import UsageError


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One upstream file.

    Attributes:
        path: Path below the folder of data sets, `"mnist/train-images-idx3-ubyte.gz"`.
        sha256: Hash of the official bytes.
    """

    path: str
    sha256: str

    def read(self, root: Path) -> bytes:
        """Return the file's bytes, having checked that they are the official ones.

        Raises:
            UsageError: The file is missing, unreadable or not the official one.
        """
        place = root / self.path
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            raise UsageError(
                f"data file {place} is missing: put it there, "
                f"or set ELBO_BENCH_DATA to the folder that holds {self.path}"
            ) from None
        except OSError as error:
            raise UsageError(f"data file {place} cannot be read: {error.strerror or error}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise UsageError(
                f"data file {place} is not the official one: sha256 {found[:16]}..., expected {self.sha256[:16]}..."
            )
        return content


def data_root() -> Path:
    """Return the folder of data sets: `ELBO_BENCH_DATA`, or a folder in the user's cache."""
    configured = os.environ.get("ELBO_BENCH_DATA")
    if configured:
        return Path(configured).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "elbo-bench" / "data"
