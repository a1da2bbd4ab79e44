"""Upstream files that are not what they should be: each is refused in one line that names it."""

import gzip
import hashlib
import io
import os
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from elbo_bench.data.dataset import DataSource
from elbo_bench.data.files import DataFile
from elbo_bench.data.gzipped import inflate
from elbo_bench.data.idx import parse_idx
from elbo_bench.data.mat import parse_mat
from elbo_bench.data.mnist_dynamic import MnistDynamic
from elbo_bench.data.mnist_static import MnistStatic, parse_amat
from elbo_bench.data.omniglot_lake28 import parse_drawings
from elbo_bench.errors import UsageError

PLACE = Path("folder/images.gz")
IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LINE = b" ".join([b"0", b"1"] * 392) + b"\n"


def idx_bytes(magic: int = 0x00000803, sizes: tuple[int, ...] = (2, 3, 4), body: bytes = IMAGES.tobytes()) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + body


def mat_bytes(**arrays: np.ndarray) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, arrays)
    return file.getvalue()


def promising(num_rows: int) -> bytes:
    """A MATLAB file whose header promises so many rows of three."""
    content = mat_bytes(data=np.zeros((2, 3)))
    sizes = struct.pack("<2i", 2, 3)
    assert content.count(sizes) == 1
    return content.replace(sizes, struct.pack("<2i", num_rows, 3))


def npz_bytes(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def npz_promising(shape: tuple[int, ...]) -> bytes:
    """An archive whose array has a header that promises a shape, and no content."""
    member, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|b1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", member.getvalue())
    return file.getvalue()


def one_line(caught: pytest.ExceptionInfo[UsageError], place: Path = PLACE) -> str:
    message = str(caught.value)
    assert str(place) in message
    assert "\n" not in message
    return message


def test_idx_is_read_in_row_major_order() -> None:
    assert np.array_equal(parse_idx(gzip.compress(idx_bytes(), mtime=0), (2, 3, 4), PLACE), IMAGES)
    labels = struct.pack(">2I", 0x00000801, 3) + bytes([7, 0, 9])
    assert parse_idx(gzip.compress(labels, mtime=0), (3,), PLACE).tolist() == [7, 0, 9]


HOSTILE_IDX: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "truncated"),
    "no gzip": (idx_bytes(), "not a valid gzip file"),
    "gzip without its end": (gzip.compress(idx_bytes(), mtime=0)[:-9], "truncated"),
    "gzip without its length": (gzip.compress(idx_bytes(), mtime=0)[:-1], "truncated"),
    "gzip with a wrong checksum": (gzip.compress(idx_bytes(), mtime=0)[:-8] + bytes(8), "not a valid gzip file"),
    "bytes after gzip": (gzip.compress(idx_bytes(), mtime=0) + b"x", "1 bytes after the end"),
    "second gzip member": (gzip.compress(idx_bytes(), mtime=0) + gzip.compress(b"more"), "bytes after the end"),
    "zlib instead of gzip": (zlib.compress(idx_bytes()), "not a valid gzip file"),
    "no header": (gzip.compress(b"\0\0\x08", mtime=0), "less than an IDX header"),
    "labels instead of images": (gzip.compress(idx_bytes(magic=0x00000801), mtime=0), "magic number 0x00000801"),
    "float instead of bytes": (gzip.compress(idx_bytes(magic=0x00000D03), mtime=0), "magic number 0x00000d03"),
    "little-endian": (
        gzip.compress(struct.pack("<4I", 0x803, 2, 3, 4) + IMAGES.tobytes(), mtime=0),
        "magic number 0x03080000",
    ),
    "2^31 images": (
        gzip.compress(idx_bytes(sizes=(2**31, 28, 28)), mtime=0),
        r"\(2147483648, 28, 28\), expected \(2, 3, 4\)",
    ),
    "sizes that overflow to nothing": (gzip.compress(idx_bytes(sizes=(2**31, 2**31, 4)), mtime=0), "expected"),
    "axes swapped": (gzip.compress(idx_bytes(sizes=(2, 4, 3)), mtime=0), r"\(2, 4, 3\), expected \(2, 3, 4\)"),
    "body too short": (gzip.compress(idx_bytes(body=IMAGES.tobytes()[:-1]), mtime=0), "23 of 24 bytes"),
    "body too long": (gzip.compress(idx_bytes(body=IMAGES.tobytes() + b"x"), mtime=0), "more than the 40 bytes"),
    "bomb": (gzip.compress(idx_bytes(body=bytes(50_000_000)), mtime=0), "more than the 40 bytes"),
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
        content = gzip.compress(bytes(size), mtime=0)
        assert inflate(content, size, PLACE) == bytes(size)
        assert inflate(content, size + 1, PLACE) == bytes(size)
        if size:
            with pytest.raises(UsageError, match="more than"):
                inflate(content, size - 1, PLACE)


def test_amat_is_read_line_by_line() -> None:
    other = LINE[:1566].translate(bytes.maketrans(b"01", b"10")) + LINE[1566:]
    parsed = parse_amat(LINE + other, 2, PLACE)
    assert torch.equal(parsed[0], torch.tensor([0, 1], dtype=torch.uint8).repeat(392))
    assert torch.equal(parsed[1, :783], 1 - parsed[0, :783])


def changed(position: int, byte: bytes) -> bytes:
    """Two lines, with another byte in the second."""
    return LINE + LINE[:position] + byte + LINE[position + 1 :]


HOSTILE_AMAT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds 0 bytes of text"),
    "digit 2": (changed(0, b"2"), "line 2"),
    "digit 2 at the end": (changed(1566, b"2"), "line 2"),
    "letter": (changed(10, b"O"), "line 2"),
    "byte with the high bit": (changed(10, b"\xb1"), "line 2"),
    "zero byte": (changed(10, b"\0"), "line 2"),
    "comma": (changed(1, b","), "line 2"),
    "tab": (changed(3, b"\t"), "line 2"),
    "newline within a line": (changed(3, b"\n"), "line 2"),
    "no newline at the end": (changed(1567, b" "), "line 2"),
    "separator and digit swapped": (b" 0" * 784 + LINE, "line 1"),
    "Windows line ends": ((LINE[:-1] + b"\r\n") * 2, "expected 2 lines"),
    "one line too few": (LINE, "expected 2 lines"),
    "one line too many": (LINE * 3, "expected 2 lines"),
    "still compressed": (gzip.compress(LINE * 2, mtime=0), "expected 2 lines"),
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


TEXT = LINE * 2
PACKED = DataFile("set/two.amat", hashlib.sha256(TEXT).hexdigest(), ("http://127.0.0.1/two.amat",), 3136, gzipped=True)


def test_a_file_may_lie_there_compressed_and_its_content_counts(tmp_path: Path) -> None:
    place = tmp_path / "set" / "two.amat.gz"
    place.parent.mkdir()
    for level in (1, 9):
        place.write_bytes(gzip.compress(TEXT, level, mtime=0))
        assert PACKED.read(tmp_path) == TEXT
        assert PACKED.place(tmp_path) == place
    hostile = {
        gzip.compress(TEXT, mtime=0)[:-9]: "truncated",
        TEXT: "not a valid gzip file",
        gzip.compress(TEXT[:-1] + b" ", mtime=0): "is not the official one: sha256",
        gzip.compress(bytes(50_000_000), mtime=0): "more than the 3136 bytes",
    }
    for content, message in hostile.items():
        place.write_bytes(content)
        with pytest.raises(UsageError, match=message) as caught:
            PACKED.read(tmp_path)
        one_line(caught, place)
    plain = place.with_name("two.amat")  # the official form goes before ours
    plain.write_bytes(TEXT)
    assert PACKED.read(tmp_path) == TEXT
    plain.write_bytes(TEXT[:-1])
    with pytest.raises(UsageError, match="not the official one: 3135 bytes, expected 3136"):
        PACKED.read(tmp_path)


def test_a_file_is_known_by_the_name_that_git_gives_it(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello world\n")
    # `printf 'hello world\n' | git hash-object --stdin`
    known = DataFile("hello", None, git_blob="3b18e512dba79e4c8300dd08aeb37f8e728b8dad")
    assert known.read(tmp_path) == b"hello world\n"
    (tmp_path / "hello").write_bytes(b"hello world")
    with pytest.raises(UsageError, match=r"is not the official one: git's SHA-1 .*, expected 3b18e512dba79e4c\.\.\.$"):
        known.read(tmp_path)


def test_what_is_no_file_or_too_large_is_refused_unread(tmp_path: Path) -> None:
    known, unknown = DataFile("pipe", "0" * 64, size=4), DataFile("pipe", None, git_blob="0" * 40)
    os.mkfifo(tmp_path / "pipe")  # to read it would be to wait for ever
    for file in (known, unknown):
        with pytest.raises(UsageError, match=r"^data file .*pipe is no file$"):
            file.read(tmp_path)
    (tmp_path / "pipe").unlink()
    with (tmp_path / "pipe").open("wb") as sparse:
        sparse.truncate(2**33)
    with pytest.raises(UsageError, match="not the official one: 8589934592 bytes, expected at most 1073741824"):
        unknown.read(tmp_path)
    with pytest.raises(UsageError, match="not the official one: 8589934592 bytes, expected 4"):
        known.read(tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/absolute", "a/../../b"])
def test_a_data_file_lies_below_the_folder_of_data_sets(path: str) -> None:
    with pytest.raises(ValueError, match="lies below the folder of data sets"):
        DataFile(path, "0" * 64)


WRONG_MAT: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a valid MATLAB file"),
    "text": (b"data = [1 2 3]\n" * 40, "not a valid MATLAB file"),
    "another array": (mat_bytes(other=np.zeros((2, 3))), "has no array data: it holds other"),
    "axes swapped": (mat_bytes(data=np.zeros((3, 2))), r"says that its data has the shape \(3, 2\), expected \(2, 3\)"),
    "no numbers": (mat_bytes(data=np.full((2, 3), "a", dtype=object)), "has a data that is no array of numbers"),
    "complex": (mat_bytes(data=np.ones((2, 3)) * 1j), "has a data that is no array of numbers"),
    "truncated": (mat_bytes(data=np.ones((2, 3)))[:-20], "not a valid MATLAB file"),
    "cut after its header": (mat_bytes(data=np.ones((2, 3)))[:128], "has no array data: it holds nothing"),
    "2^31 rows": (promising(2**31 - 1), r"says that its data has the shape \(2147483647, 3\), expected \(2, 3\)"),
}


@pytest.mark.parametrize("name", WRONG_MAT)
def test_a_wrong_mat_file_is_refused_in_one_line_and_without_memory(name: str) -> None:
    content, message = WRONG_MAT[name]
    parse_mat(mat_bytes(data=np.zeros((2, 3))), {"data": (2, 3)}, PLACE)  # what is imported meanwhile is not counted
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as caught:
            parse_mat(content, {"data": (2, 3)}, PLACE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_line(caught)
    assert peak < 1_000_000


def test_a_mat_file_gives_the_arrays_that_are_asked_for() -> None:
    data = np.arange(6, dtype=np.uint8).reshape(2, 3)
    arrays = parse_mat(mat_bytes(data=data, other=np.zeros(4)), {"data": (2, 3)}, PLACE)
    assert list(arrays) == ["data"]
    assert np.array_equal(arrays["data"], data)


WRONG_NPZ: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a valid .npz file"),
    "no zip": (b"PK\x03\x04" + bytes(200), "not a valid .npz file"),
    "truncated": (npz_bytes(images=np.zeros((1, 20, 105, 105), bool))[:-60], "not a valid .npz file"),
    "no images": (npz_bytes(labels=np.zeros(3)), "not a valid .npz file"),
    "too few": (
        npz_bytes(images=np.zeros((1, 19, 105, 105), bool)),
        r"says that its images are \(1, 19, 105, 105\) bool",
    ),
    "bytes": (npz_bytes(images=np.zeros((1, 20, 105, 105), np.uint8)), "uint8, expected"),
    "objects": (npz_bytes(images=np.full((1, 20, 105, 105), None)), "object, expected"),
    "2^31 characters": (npz_promising((2**31, 20, 105, 105)), r"\(2147483648, 20, 105, 105\) bool, expected"),
}


@pytest.mark.parametrize("name", WRONG_NPZ)
def test_wrong_drawings_are_refused_in_one_line_and_without_memory(name: str) -> None:
    content, message = WRONG_NPZ[name]
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=message) as caught:
            parse_drawings(content, 1, PLACE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_line(caught)
    assert peak < 2_000_000


@pytest.mark.parametrize("source", [MnistDynamic, MnistStatic])
def test_missing_and_corrupt_files_are_named(source: type[DataSource], tmp_path: Path) -> None:
    place = tmp_path / source.files[0].path
    with pytest.raises(
        UsageError, match=r"is missing: get it from http\S+ and put it there, or set ELBO_BENCH_DATA"
    ) as caught:
        source().load(tmp_path)
    one_line(caught, place)
    place.parent.mkdir()
    for content in (b"", b"<html>404</html>", gzip.compress(idx_bytes(), mtime=0)):
        place.write_bytes(content)
        with pytest.raises(UsageError, match=r"is not the official one: \d+ bytes, expected \d+") as caught:
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
        (
            MnistDynamic,
            gzip.compress(idx_bytes(), mtime=0),
            r"says that its shape is \(2, 3, 4\), expected \(60000, 28, 28\)",
        ),
        (MnistStatic, LINE, "expected 50000 lines"),
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
