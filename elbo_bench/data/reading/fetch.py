"""Fetching upstream files: one download for many processes, and only files with the official hash."""

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlsplit

import requests
from pooch import HTTPDownloader  # type: ignore[import-untyped]

from elbo_bench.data.reading.files import DataFile, MissingFileError
from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.progress import ProgressLine

_LARGEST = 2**30  # bytes, for a file of unknown size
_CHUNK = 2**18
_TIMEOUT = (10, 30)  # seconds: for a connection, and between two packets


def fetch(file: DataFile, root: Path, *, force: bool = False) -> Literal["here", "fetched", "built in"]:
    """Download a file into the folder of data sets, unless it is there.

    Processes that ask for one file at the same time wait for the first of them. The file appears only when it is
    complete and has the official hash. A file that is there already is read, and nothing is written.

    Args:
        file: Its addresses are tried in turn.
        root: The folder of data sets.
        force: Whether a file that lies there with other bytes is replaced.

    Returns:
        `"here"` if nothing was to do, `"built in"` if the file is there and has no address.

    Raises:
        UsageError: Another file lies there, the folder cannot be written, or the file is missing and has no address.
        RunFailedError: No address gave the official bytes, or the disk is full; the line says what was tried.
    """
    if _is_here(file, root, force=force):
        return "here" if file.addresses else "built in"
    path = root / file.path
    if not file.addresses:
        raise UsageError(f"data file {path} is missing, and no address is known for it: put it there")
    with _alone(file, root):
        if _is_here(file, root, force=force):
            return "here"
        _download(file, path)
    return "fetched"


def _is_here(file: DataFile, root: Path, *, force: bool) -> bool:
    try:
        file.read(root)
    except MissingFileError:
        return False
    except UsageError as error:
        if force:
            return False
        raise UsageError(f"{error}; remove it, or let `elbo-bench data fetch --force` replace it") from None
    return True


@contextlib.contextmanager
def _alone(file: DataFile, root: Path) -> Iterator[None]:
    """Make the file's folder, and hold it against other processes that would fetch the file; wait for one that does.

    Raises:
        UsageError: The folder cannot be written.
    """
    path = root / file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through no link: in a folder that others may write, it could lead to any file of ours.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        lock = os.fdopen(os.open(path.with_name(f".{path.name}.lock"), flags, 0o666), "ab+", buffering=0)
    except OSError as error:
        raise UsageError(
            f"{file.path} is not below {root}, and that folder cannot be written ({error.strerror or error}): "
            "set ELBO_BENCH_DATA to one that can, or that holds it"
        ) from None
    with lock:  # closing it, as the end of a process does, lets go of it
        started, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said and time.monotonic() - started > 1:
                    lock.seek(0)
                    other = lock.read(300).decode(errors="replace") or "another process"
                    print(f"elbo-bench: waiting for {other} to fetch {path}", file=sys.stderr, flush=True)  # noqa: T201
                    said = True
                time.sleep(0.05)
            except OSError as error:
                raise UsageError(f"data folder {path.parent} cannot be locked: {error.strerror or error}") from None
        with contextlib.suppress(OSError):  # a full disk: the download will say so
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _download(file: DataFile, path: Path) -> None:
    """Fetch the file from the first address that gives the official bytes; call it with the lock held."""
    part = path.with_name(f".{path.name}.part")
    tried = []
    try:
        for address in file.addresses:
            part.unlink(missing_ok=True)  # another mirror's, or of a process that was killed
            problem = _receive(address, file, part)
            if problem is None:
                part.replace(path)
                return
            tried.append(f"{address} ({problem})")
    except OSError as error:
        raise RunFailedError(f"data file {path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    raise RunFailedError(
        f"data file {file.path} could not be fetched: {'; '.join(tried)}; put it at {path} by hand, "
        f"or set ELBO_BENCH_DATA to a folder that holds {file.path}"
    )


def _receive(address: str, file: DataFile, part: Path) -> str | None:
    """Write to `part` what an address gives; return in a few words why these are not the official bytes, or None."""
    limit = _LARGEST if file.size is None else file.size
    total = None if file.size is None else _kilobytes(file.size)
    answers: list[requests.Response] = []

    def keep(answer: requests.Response, **_: Any) -> None:
        answers.append(answer)
        # Some servers call the compression of a .gz file their own, and it would be undone on the way.
        if address.endswith(".gz"):
            answer.raw.headers.discard("Content-Encoding")

    try:
        with (
            part.open("xb") as arriving,
            ProgressLine(f"fetching {file.path} from {urlsplit(address).hostname}, kB", total) as line,
        ):
            download = HTTPDownloader(
                progressbar=_Watch(arriving, limit, line),
                chunk_size=_CHUNK,
                timeout=_TIMEOUT,
                headers={"Accept-Encoding": "identity", "User-Agent": "elbo-bench"},
                hooks={"response": keep},
            )
            download(address, arriving, None)
            arriving.flush()
            os.fsync(arriving.fileno())
    except _TooLongError:
        return f"more than {limit} bytes"
    except (requests.RequestException, ValueError) as error:  # ValueError: a header that makes no sense
        return _words(error, part.stat().st_size)
    finally:
        for answer in answers:  # pooch leaves the connection of a download that broke off to the garbage collector
            answer.close()
    content = part.read_bytes()
    return file.problem(content)


class _TooLongError(Exception):
    """More bytes came than belong in the file."""


class _Watch:
    """What pooch calls after every chunk: shows how far the download is, and cuts it off behind the last byte."""

    def __init__(self, arriving: BinaryIO, limit: int, line: ProgressLine) -> None:
        self.total = 0  # set by pooch, to what the server says
        self._arriving, self._limit, self._line = arriving, limit, line

    def update(self, _: int) -> None:
        """Look at what has arrived: pooch passes the size of a full chunk, however small this one was."""
        received = self._arriving.tell()
        if received > self._limit:
            raise _TooLongError
        self._line.update(_kilobytes(received), total=_kilobytes(self.total) or None)

    def reset(self) -> None:
        """Do nothing: pooch would count from zero here."""

    def close(self) -> None:
        """Do nothing: the line is closed by whoever opened it."""


def _kilobytes(size: int) -> int:
    return -(-size // 1000)


def _words(error: Exception, received: int) -> str:
    """Return in a few words why a download broke off."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    after = f" after {received} bytes" if received else ""
    cause: BaseException | None = error
    while cause is not None:  # the words are those of the system's error, at the far end of requests' and urllib3's own
        if isinstance(cause, TimeoutError):
            return f"no answer in time{after}"
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}{after}"
        cause = cause.__cause__ or cause.__context__
    return f"the connection broke off{after}" if received else type(error).__name__
