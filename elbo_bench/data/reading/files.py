"""Upstream data files: their addresses, their paths, and the check that their bytes are the official ones."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from zlib_ng import zlib_ng

from elbo_bench.errors import UsageError

GZIP = 16 + zlib_ng.MAX_WBITS
"""Makes zlib-ng read the gzip format. zlib-ng is twice as fast as Python's `gzip`."""


class MissingFileError(UsageError):
    """A data file is missing."""


@contextlib.contextmanager
def suggest_fetch(name: str) -> Iterator[None]:
    """Add the command that fetches a data set to the message about its missing file.

    Raises:
        MissingFileError: A file is missing.
    """
    try:
        yield
    except MissingFileError as error:
        raise MissingFileError(f"{error}; `elbo-bench data fetch {name}` does that for you") from None


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One upstream file.

    Attributes:
        path: Path below the folder of data sets, `"mnist/train-images-idx3-ubyte.gz"`.
        sha256: Hash of the official bytes; None if only `git_blob` is known.
        addresses: URLs of the file, the official one first.
        size: Number of bytes; None if unknown.
        git_blob: SHA-1 that git computes for the official bytes.
        gzipped: Whether the file may also be stored compressed, with `.gz` after its name. The hash is that of the
            uncompressed bytes.
    """

    path: str
    sha256: str | None
    addresses: tuple[str, ...] = ()
    size: int | None = None
    git_blob: str | None = None
    gzipped: bool = False

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ValueError(f"the path of a data file must be below the folder of data sets: {self.path}")

    def path_in(self, root: Path) -> Path:
        """Return the path of the file in the folder of data sets, whether the file exists or not."""
        plain = root / self.path
        packed = plain.with_name(f"{plain.name}.gz")
        return packed if self.gzipped and packed.is_file() and not plain.is_file() else plain

    def read(self, root: Path) -> bytes:
        """Return the official bytes.

        Raises:
            MissingFileError: The file does not exist. The message says where to get it and where to put it.
            UsageError: The file cannot be read, or is not the official one.
        """
        path = self.path_in(root)
        if path.exists() and not path.is_file():  # reading a pipe would wait without end
            raise UsageError(f"data file {path} is not a file")
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            source = f"get it from {self.addresses[0]} and " if self.addresses else ""
            raise MissingFileError(
                f"data file {path} is missing: {source}put it there, "
                f"or set ELBO_BENCH_DATA to the folder that holds {self.path}"
            ) from None
        except OSError as error:
            raise UsageError(f"data file {path} cannot be read: {error.strerror or error}") from None
        if path.name != Path(self.path).name:
            assert self.size is not None
            try:  # one byte more than the file may have, and no more, whatever the compressed bytes hold
                content = zlib_ng.decompressobj(GZIP).decompress(content, self.size + 1)
            except zlib_ng.error as error:  # type: ignore[misc]  # its stub is incomplete
                raise UsageError(f"data file {path} is not a valid gzip file: {error}") from None
        if problem := self.problem(content):
            raise UsageError(f"data file {path} is not the official one: {problem}")
        return content

    def problem(self, content: bytes) -> str | None:
        """Return how bytes differ from the official ones; None if they are the official ones."""
        if self.size is not None and len(content) != self.size:
            return f"{len(content)} bytes, expected {self.size}"
        if self.sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            return f"sha256 {found[:16]}..., expected {self.sha256[:16]}..."
        if self.git_blob is not None and (found := _git_blob(content)) != self.git_blob:
            return f"git's SHA-1 {found[:16]}..., expected {self.git_blob[:16]}..."
        return None


def _git_blob(content: bytes) -> str:
    """Return the SHA-1 that `git hash-object` computes for a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def data_root() -> Path:
    """Return the folder of data sets: `ELBO_BENCH_DATA`, or a folder in the user's cache.

    Raises:
        UsageError: `ELBO_BENCH_DATA` is not a folder, or the home folder does not exist.
    """
    configured = os.environ.get("ELBO_BENCH_DATA")
    try:
        if not configured:
            cache = os.environ.get("XDG_CACHE_HOME")
            return (Path(cache) if cache else Path.home() / ".cache") / "elbo-bench" / "data"
        root = Path(configured).expanduser()
    except RuntimeError:
        raise UsageError(f"ELBO_BENCH_DATA={configured or ''}: home folder not found") from None
    if root.exists() and not root.is_dir():
        raise UsageError(f"ELBO_BENCH_DATA={configured}: not a folder")
    return root
