"""Fetching data files: only official bytes arrive, once, whoever asks at the same time and whoever is killed."""

import errno
import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from elbo_bench.data.reading import fetch as module
from elbo_bench.data.reading.fetch import fetch
from elbo_bench.data.reading.files import DataFile
from elbo_bench.errors import RunFailedError, UsageError

CONTENT = bytes(range(256)) * 1200  # more than one chunk
OTHER = CONTENT[::-1]
Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """Answers each path as it is told to, and keeps what it was asked for."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        elif isinstance(answer, bytes):
            begin(self, len(answer))
            self.wfile.write(answer)
        else:
            answer(self)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def begin(handler: BaseHTTPRequestHandler, length: int | None, **headers: str) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Connection", "close")
    handler.end_headers()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def official(*addresses: str, content: bytes = CONTENT, path: str = "set/some.bin") -> DataFile:
    return DataFile(path, hashlib.sha256(content).hexdigest(), addresses, len(content))


def names(root: Path) -> set[str]:
    return {str(place.relative_to(root)) for place in root.rglob("*") if place.is_file()}


def test_a_file_is_fetched_once_and_then_here(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/a"] = CONTENT
    file, root = official(server.address("/a")), tmp_path / "not" / "yet"
    assert fetch(file, root) == "fetched"
    assert (root / "set/some.bin").read_bytes() == CONTENT
    assert names(root) == {"set/some.bin", "set/.some.bin.lock"}
    out, error = capsys.readouterr()
    assert out == ""
    assert error == "fetching set/some.bin from 127.0.0.1, kB: 308/308, 0 s\n"
    assert fetch(file, root) == fetch(file, root, force=True) == "here"
    assert server.asked == ["/a"]
    assert capsys.readouterr().err == ""


def broken_off(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, len(CONTENT))
    handler.wfile.write(CONTENT[:300_000])


def ends_early_without_a_length(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, None)
    handler.wfile.write(CONTENT[:-1])


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\0\1\2\r\n\r\n")


def absurd_length(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, None, Content_Length="many")
    handler.wfile.write(CONTENT)


def round_in_circles(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.send_header("Content-Length", "0")
    handler.send_header("Connection", "close")
    handler.end_headers()


def to_a_file(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/hostname")
    handler.send_header("Content-Length", "0")
    handler.send_header("Connection", "close")
    handler.end_headers()


def silent(handler: BaseHTTPRequestHandler) -> None:
    begin(handler, len(CONTENT))
    handler.wfile.write(CONTENT[:100])
    assert isinstance(handler.server, Server)
    handler.server.go_on.wait(20)


BAD: dict[str, tuple[Answer | None, str]] = {
    "not found": (None, "HTTP 404"),
    "other bytes": (OTHER, f"sha256 {hashlib.sha256(OTHER).hexdigest()[:16]}..."),
    "a page instead": (b"<html>log in first</html>", "25 bytes, expected 307200"),
    "nothing": (b"", "0 bytes, expected 307200"),
    "one byte too many": (CONTENT + b"\0", "more than 307200 bytes"),
    "broken off": (broken_off, "the connection broke off after "),
    "ends early": (ends_early_without_a_length, "307199 bytes, expected 307200"),
    "no HTTP": (nonsense, "ConnectionError"),
    "absurd length": (absurd_length, ""),
    "redirected to itself": (round_in_circles, "TooManyRedirects"),
    "redirected to a file": (to_a_file, "InvalidSchema"),
    "silent": (silent, "no answer in time"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mirror_that_fails_is_passed_over_and_its_bytes_never_reach_the_place(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", (0.3, 0.3))
    answer, words = BAD[name]
    if answer is not None:
        server.answers["/bad"] = answer
    server.answers["/good"] = CONTENT
    bad, good = server.address("/bad"), server.address("/good")
    with pytest.raises(RunFailedError) as caught:
        fetch(official(bad), tmp_path)
    assert f"could not be fetched: {bad} ({words}" in str(caught.value)
    assert names(tmp_path) == {"set/.some.bin.lock"}
    assert fetch(official(bad, good), tmp_path) == "fetched"
    assert server.asked[-1] == "/good"
    assert set(server.asked) == {"/bad", "/good"}
    assert (tmp_path / "set/some.bin").read_bytes() == CONTENT
    assert names(tmp_path) == {"set/.some.bin.lock", "set/some.bin"}


def test_an_endless_stream_is_cut_off_behind_the_last_byte(server: Server, tmp_path: Path) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        begin(handler, None)
        while sent < 200_000_000:
            sent += handler.wfile.write(CONTENT)

    server.answers["/endless"] = endless
    with pytest.raises(RunFailedError, match=r"more than 307200 bytes"):
        fetch(official(server.address("/endless")), tmp_path)
    assert sent < 50_000_000  # what lies in the buffers of two sockets is sent, too
    assert names(tmp_path) == {"set/.some.bin.lock"}


def test_a_file_of_unknown_size_and_known_to_git_alone(server: Server, tmp_path: Path) -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    server.answers |= {"/bad": b"Hello\n", "/good": b"hello\n"}
    addresses = server.address("/bad"), server.address("/good")
    file = DataFile("greeting", None, addresses, git_blob="ce013625030ba8dba906f756967f9e9ca394464a")
    assert fetch(file, tmp_path) == "fetched"
    assert (tmp_path / "greeting").read_bytes() == b"hello\n"
    assert server.asked == ["/bad", "/good"]


def test_small_packets_are_counted_as_what_they_are(server: Server, tmp_path: Path) -> None:
    def in_pieces(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, None, Transfer_Encoding="chunked")
        for start in range(0, len(CONTENT), 1000):
            piece = CONTENT[start : start + 1000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    server.answers["/a"] = in_pieces
    assert fetch(official(server.address("/a")), tmp_path) == "fetched"


def test_a_gzip_file_stays_one_though_the_server_calls_it_an_encoding(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT, mtime=0)

    def encoded(handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        begin(handler, len(packed), Content_Encoding="x-gzip")
        handler.wfile.write(packed)

    server.answers["/a.gz"] = encoded
    assert fetch(official(server.address("/a.gz"), content=packed, path="a.gz"), tmp_path) == "fetched"
    assert (tmp_path / "a.gz").read_bytes() == packed


def test_offline_one_line_says_what_was_tried_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    def no_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    refused = f"http://127.0.0.1:{closed_port()}/a"
    with pytest.raises(RunFailedError) as caught:
        fetch(official(refused), tmp_path)
    assert str(caught.value) == (
        f"data file set/some.bin could not be fetched: {refused} (Connection refused); "
        f"put it at {tmp_path}/set/some.bin by hand, or set ELBO_BENCH_DATA to a folder that holds set/some.bin"
    )
    assert caught.value.exit_code == 3
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(RunFailedError) as caught:
        fetch(official("https://one.invalid/a", "http://two.invalid/a"), tmp_path)
    assert "https://one.invalid/a (Name or service not known); http://two.invalid/a (Name or" in str(caught.value)
    assert names(tmp_path) == {"set/.some.bin.lock"}


def test_another_file_is_refused_and_replaced_by_force_alone(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = CONTENT
    file, place = official(server.address("/a")), tmp_path / "set/some.bin"
    place.parent.mkdir()
    for found, words in ((OTHER, "sha256"), (b"short", "5 bytes, expected 307200")):
        place.write_bytes(found)
        with pytest.raises(UsageError, match=f"some.bin is not the official one: {words}.*remove it, or .*--force"):
            fetch(file, tmp_path)
        assert place.read_bytes() == found
        assert names(tmp_path) == {"set/some.bin"}
    assert server.asked == []
    server.answers.pop("/a")
    with pytest.raises(RunFailedError):
        fetch(file, tmp_path, force=True)
    assert place.read_bytes() == b"short"
    server.answers["/a"] = CONTENT
    assert fetch(file, tmp_path, force=True) == "fetched"
    assert place.read_bytes() == CONTENT


def test_a_file_that_lies_there_compressed_is_here(tmp_path: Path) -> None:
    (tmp_path / "plain.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    digest = hashlib.sha256(CONTENT).hexdigest()
    file = DataFile("plain", digest, ("http://127.0.0.1:1/plain",), len(CONTENT), gzipped=True)
    assert fetch(file, tmp_path) == "here"
    assert names(tmp_path) == {"plain.gz"}


def test_a_file_without_an_address_is_built_in_where_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"some.bin is missing, and no address is known for it"):
        fetch(official(), tmp_path)
    assert names(tmp_path) == set()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/some.bin").write_bytes(CONTENT)
    assert fetch(official(), tmp_path) == "built in"


def test_a_full_disk_ends_it_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers |= {"/a": CONTENT, "/b": CONTENT}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailedError, match=r"some.bin cannot be written: No space left on device"):
        fetch(official(server.address("/a"), server.address("/b")), tmp_path)
    assert server.asked == ["/a"]  # another mirror would not help
    assert names(tmp_path) == {"set/.some.bin.lock"}


# ---------------------------------------------------------------- processes

_PROGRAM = """
import sys
from pathlib import Path
from elbo_bench.data.reading.fetch import fetch
from elbo_bench.data.reading.files import DataFile
from elbo_bench.errors import ElboBenchError
address, root, sha256, size = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
try:
    print(fetch(DataFile("set/some.bin", sha256, (address,), int(size)), Path(root)))
except ElboBenchError as error:
    sys.exit(f"{error.exit_code}: {error}")
"""


# Root may write where no one may, until it gives that right up; an exec would give it back.
_WITHOUT_PRIVILEGES = """
import ctypes
header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, nothing) == 0
"""


def process(address: str, root: Path, program: str = _PROGRAM) -> subprocess.Popen[str]:
    words = [address, str(root), hashlib.sha256(CONTENT).hexdigest(), str(len(CONTENT))]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def held_back(handler: BaseHTTPRequestHandler) -> None:
    """Send the first half, and the second one when the test says so."""
    begin(handler, len(CONTENT))
    handler.wfile.write(CONTENT[:270_000])
    assert isinstance(handler.server, Server)
    handler.server.go_on.wait(30)
    handler.wfile.write(CONTENT[270_000:])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_eight_processes_share_one_download(server: Server, tmp_path: Path) -> None:
    """Takes seconds: who waits says so after one."""
    server.answers["/a"] = held_back
    workers = [process(server.address("/a"), tmp_path) for _ in range(8)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    until(lambda: server.asked == ["/a"])
    time.sleep(1.5)
    server.go_on.set()
    ends = [worker.communicate(timeout=30) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 8
    assert server.asked == ["/a"]
    assert sorted(out for out, _ in ends) == ["fetched\n"] + ["here\n"] * 7
    (first,) = (worker.pid for worker, (out, _) in zip(workers, ends, strict=True) if out == "fetched\n")
    said = f"elbo-bench: waiting for process {first} on {socket.gethostname()} to fetch {tmp_path}/set/some.bin\n"
    assert [error for out, error in ends if out == "here\n"] == [said] * 7
    assert (tmp_path / "set/some.bin").read_bytes() == CONTENT
    assert names(tmp_path) == {"set/some.bin", "set/.some.bin.lock"}


def test_a_killed_process_hinders_no_other(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = held_back
    part = tmp_path / "set/.some.bin.part"
    killed = process(server.address("/a"), tmp_path)
    assert killed.stdin is not None
    killed.stdin.write("\n")
    killed.stdin.flush()
    until(lambda: part.is_file() and part.stat().st_size > 0)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert names(tmp_path) == {"set/.some.bin.part", "set/.some.bin.lock"}
    server.answers["/a"] = CONTENT
    assert fetch(official(server.address("/a")), tmp_path) == "fetched"
    assert names(tmp_path) == {"set/some.bin", "set/.some.bin.lock"}


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    server.answers["/a"] = CONTENT
    root = tmp_path / "data"
    (root / "set").mkdir(parents=True)

    def read_only(say: str) -> None:
        for folder in (root / "set", root):
            folder.chmod(0o555)
        try:
            worker = process(server.address("/a"), root, _WITHOUT_PRIVILEGES + _PROGRAM)
            out, error = worker.communicate("\n", timeout=30)
        finally:
            for folder in (root, root / "set"):
                folder.chmod(0o755)
        assert f"{out}{error}" == f"ready\n{say}\n"

    read_only(
        f"2: set/some.bin is not below {root}, and that folder cannot be written (Permission denied): "
        "set ELBO_BENCH_DATA to one that can, or that holds it"
    )
    assert server.asked == []
    (root / "set/some.bin").write_bytes(CONTENT)
    read_only("here")
    assert names(root) == {"set/some.bin"}
