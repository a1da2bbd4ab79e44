"""Upstream files that are not what they should be: each is refused in one line that names it."""

import gzip
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from elbo_bench.data.dataset import DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.data.idx import inflate, parse_idx
from elbo_bench.data.mnist_dynamic import MnistDynamic
from elbo_bench.data.mnist_static import MnistStatic, parse_amat
from elbo_bench.errors import UsageError

PLACE = Path("folder/images.gz")
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LINE = b" ".join([b"0", b"1"] * 392) + b"\n"


def idx_bytes(magic: int = 0x00000803, sizes: tuple[int, ...] = (2, 3, 4), body: bytes = IMAGES.tobytes()) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + body


def one_line(caught: pytest.ExceptionInfo[UsageError], place: Path = PLACE) -> str:
    message = str(caught.value)
    assert str(place) in message
    assert "\n" not in message
    return message


def test_idx_is_read_in_row_major_order() -> None:
    assert np.array_equal(parse_idx(gzip.compress(idx_bytes()), (2, 3, 4), PLACE), IMAGES)
    labels = struct.pack(">2I", 0x00000801, 3) + bytes([7, 0, 9])
    assert parse_idx(gzip.compress(labels), (3,), PLACE).tolist() == [7, 0, 9]


HOSTILE_IDX: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "truncated"),
    "no gzip": (idx_bytes(), "not a valid gzip file"),
    "gzip without its end": (gzip.compress(idx_bytes())[:-9], "truncated"),
    "gzip without its length": (gzip.compress(idx_bytes())[:-1], "truncated"),
    "gzip with a wrong checksum": (gzip.compress(idx_bytes())[:-8] + bytes(8), "not a valid gzip file"),
    "bytes after gzip": (gzip.compress(idx_bytes()) + b"x", "1 bytes after the end"),
    "second gzip member": (gzip.compress(idx_bytes()) + gzip.compress(b"more"), "bytes after the end"),
    "zlib instead of gzip": (zlib.compress(idx_bytes()), "not a valid gzip file"),
    "no header": (gzip.compress(b"\0\0\x08"), "less than an IDX header"),
    "labels instead of images": (gzip.compress(idx_bytes(magic=0x00000801)), "magic number 0x00000801"),
    "float instead of bytes": (gzip.compress(idx_bytes(magic=0x00000D03)), "magic number 0x00000d03"),
    "little-endian": (gzip.compress(struct.pack("<4I", 0x803, 2, 3, 4) + IMAGES.tobytes()), "magic number 0x03080000"),
    "2^31 images": (gzip.compress(idx_bytes(sizes=(2**31, 28, 28))), r"\(2147483648, 28, 28\), expected \(2, 3, 4\)"),
    "sizes that overflow to nothing": (gzip.compress(idx_bytes(sizes=(2**31, 2**31, 4))), "expected"),
    "axes swapped": (gzip.compress(idx_bytes(sizes=(2, 4, 3))), r"\(2, 4, 3\), expected \(2, 3, 4\)"),
    "body too short": (gzip.compress(idx_bytes(body=IMAGES.tobytes()[:-1])), "23 of 24 bytes"),
    "body too long": (gzip.compress(idx_bytes(body=IMAGES.tobytes() + b"x")), "more than the 40 bytes"),
    "bomb": (gzip.compress(idx_bytes(body=bytes(50_000_000))), "more than the 40 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE_IDX)
def test_hostile_idx_is_refused_in_one_line_and_without_memory(name: str) -> None:
    content, message = HOSTILE_IDX[name]
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as caught:
            parse_idx(content, (2, 3, 4), PLACE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_line(caught)
    assert peak < 1_000_000


def test_inflate_accepts_up_to_its_limit() -> None:
    for size in (0, 1, 100_000):
        content = gzip.compress(bytes(size))
        assert inflate(content, size, PLACE) == bytes(size)
        assert inflate(content, size + 1, PLACE) == bytes(size)
        if size:
            with pytest.raises(UsageError, match="more than"):
                inflate(content, size - 1, PLACE)


def test_amat_is_read_line_by_line() -> None:
    other = LINE[:1566].translate(bytes.maketrans(b"01", b"10")) + LINE[1566:]
    parsed = parse_amat(gzip.compress(LINE + other), 2, PLACE)
    assert torch.equal(parsed[0], torch.tensor([0.0, 1.0]).repeat(392))
    assert torch.equal(parsed[1, :783], 1 - parsed[0, :783])


def changed(position: int, byte: bytes) -> bytes:
    """Two lines, with another byte in the second."""
    return LINE + LINE[:position] + byte + LINE[position + 1 :]


HOSTILE_AMAT: dict[str, tuple[bytes, str]] = {
    "gzip without its end": (gzip.compress(LINE * 2)[:-9], "truncated"),
    "no gzip": (LINE * 2, "not a valid gzip file"),
    "digit 2": (gzip.compress(changed(0, b"2")), "line 2"),
    "digit 2 at the end": (gzip.compress(changed(1566, b"2")), "line 2"),
    "letter": (gzip.compress(changed(10, b"O")), "line 2"),
    "byte with the high bit": (gzip.compress(changed(10, b"\xb1")), "line 2"),
    "zero byte": (gzip.compress(changed(10, b"\0")), "line 2"),
    "comma": (gzip.compress(changed(1, b",")), "line 2"),
    "tab": (gzip.compress(changed(3, b"\t")), "line 2"),
    "newline within a line": (gzip.compress(changed(3, b"\n")), "line 2"),
    "no newline at the end": (gzip.compress(changed(1567, b" ")), "line 2"),
    "separator and digit swapped": (gzip.compress(b" 0" * 784 + LINE), "line 1"),
    "Windows line ends": (gzip.compress((LINE[:-1] + b"\r\n") * 2), "more than the 3136 bytes"),
    "one line too few": (gzip.compress(LINE), "expected 2 lines"),
    "one line too many": (gzip.compress(LINE * 3), "more than the 3136 bytes"),
    "bomb": (gzip.compress(b"0 " * 25_000_000), "more than the 3136 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE_AMAT)
def test_hostile_amat_is_refused_in_one_line_and_without_memory(name: str) -> None:
    content, message = HOSTILE_AMAT[name]
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as caught:
            parse_amat(content, 2, PLACE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_line(caught)
    assert peak < 1_000_000


@pytest.mark.parametrize("source", [MnistDynamic, MnistStatic])
def test_missing_and_corrupt_files_are_named(source: type[DataSource], tmp_path: Path) -> None:
    place = tmp_path / source.files[0].path
    with pytest.raises(UsageError, match="is missing: put it there, or set ELBO_BENCH_DATA") as caught:
        source().load(tmp_path)
    one_line(caught, place)
    place.parent.mkdir()
    for content in (b"", b"<html>404</html>", gzip.compress(idx_bytes())):
        place.write_bytes(content)
        with pytest.raises(UsageError, match="is not the official one: sha256") as caught:
            source().load(tmp_path)
        one_line(caught, place)
    place.unlink()
    place.mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory") as caught:
        source().load(tmp_path)
    one_line(caught, place)


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        (MnistDynamic, gzip.compress(idx_bytes()), r"says that its shape is \(2, 3, 4\), expected \(60000, 28, 28\)"),
        (MnistStatic, gzip.compress(LINE), "expected 50000 lines"),
    ],
)
def test_load_checks_what_a_file_holds(
    source: type[DataSource],
    content: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(*_: object) -> bytes:
        return content  # as if its hash were the official one

    monkeypatch.setattr(DataFile, "read", read)
    with pytest.raises(UsageError, match=message) as caught:
        source().load(tmp_path)
    one_line(caught, tmp_path / source.files[0].path)
