"""Upstream data files: where they come from, where they lie, and that they are the official ones."""

import contextlib
import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from elbo_bench.data.gzipped import inflate
from elbo_bench.errors import UsageError

LARGEST = 2**30
"""Bytes of a file whose size is not known, and of one that is compressed."""


class MissingFileError(UsageError):
    """A data file is not there."""


@contextlib.contextmanager
def naming_set(name: str) -> Iterator[None]:
    """Say of a file that is missing by which command it can be had.

    Raises:
        MissingFileError: A file is missing.
    """
    try:
        yield
    except MissingFileError as error:
        raise MissingFileError(f"{error}; `elbo-bench data fetch {name}` does that for you") from None


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One upstream file. Its bytes are those of one hash or of the other, or of both.

    Attributes:
        path: Path below the folder of data sets, `"mnist/train-images-idx3-ubyte.gz"`.
        sha256: Hash of the official bytes.
        addresses: Where they can be had, the official address first.
        size: Number of bytes; None if it is not known.
        git_blob: SHA-1 by which git knows the official bytes, where that is what is published.
        gzipped: Whether the file may also lie there compressed, under its name with `.gz`; the hash is that of what is
            inside.
    """

    path: str
    sha256: str | None
    addresses: tuple[str, ...] = ()
    size: int | None = None
    git_blob: str | None = None
    gzipped: bool = False

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ValueError(f"the path of a data file lies below the folder of data sets: {self.path}")

    def place(self, root: Path) -> Path:
        """Return where the file lies, or belongs, below the folder of data sets."""
        plain = root / self.path
        packed = plain.with_name(f"{plain.name}.gz")
        return packed if self.gzipped and packed.is_file() and not plain.is_file() else plain

    def read(self, root: Path) -> bytes:
        """Return the official bytes.

        Raises:
            MissingFileError: The file is not there; the line says where it can be had and where it belongs.
            UsageError: It is unreadable, or not the official one.
        """
        place = self.place(root)
        try:
            found, packed = place.stat(), place.name != Path(self.path).name
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise UsageError(f"data file {place} is no file")  # to read a pipe would be to wait for ever
            exact = self.size is not None and not packed
            limit = self.size if self.size is not None and exact else LARGEST
            wrong = found.st_size != limit if exact else found.st_size > limit
            if stat.S_ISREG(found.st_mode) and wrong:  # refused unread
                raise UsageError(
                    f"data file {place} is not the official one: {found.st_size} bytes, "
                    f"expected {'' if exact else 'at most '}{limit}"
                )
            content = place.read_bytes()
        except FileNotFoundError:
            source = f"get it from {self.addresses[0]} and " if self.addresses else ""
            raise MissingFileError(
                f"data file {place} is missing: {source}put it there, "
                f"or set ELBO_BENCH_DATA to the folder that holds {self.path}"
            ) from None
        except OSError as error:
            raise UsageError(f"data file {place} cannot be read: {error.strerror or error}") from None
        if packed:
            assert self.size is not None
            content = inflate(content, self.size, place)
        if problem := self.problem(content):
            raise UsageError(f"data file {place} is not the official one: {problem}")
        return content

    def problem(self, content: bytes) -> str | None:
        """Return why some bytes are not the official ones, or None."""
        if self.sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            return f"sha256 {found[:16]}..., expected {self.sha256[:16]}..."
        if self.git_blob is not None and (found := _git_blob(content)) != self.git_blob:
            return f"git's SHA-1 {found[:16]}..., expected {self.git_blob[:16]}..."
        return None


def _git_blob(content: bytes) -> str:
    """Return the name that git gives to a file with this content: `git hash-object`."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def data_root() -> Path:
    """Return the folder of data sets: `ELBO_BENCH_DATA`, or a folder in the user's cache.

    Raises:
        UsageError: It is no folder, or the user has no home.
    """
    configured = os.environ.get("ELBO_BENCH_DATA")
    try:
        if not configured:
            cache = os.environ.get("XDG_CACHE_HOME")
            return (Path(cache) if cache else Path.home() / ".cache") / "elbo-bench" / "data"
        root = Path(configured).expanduser()
    except RuntimeError:
        raise UsageError(f"ELBO_BENCH_DATA={configured or ''}: there is no such home") from None
    if root.exists() and not root.is_dir():
        raise UsageError(f"ELBO_BENCH_DATA={configured}: it is no folder")
    return root
