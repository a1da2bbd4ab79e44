"""Upstream files with other bytes than the official ones: each is refused in one line that names it."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from elbo_bench.data.dataset import DataSource
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.sets.mnist_dynamic import MnistDynamic
from elbo_bench.data.sets.mnist_static import MnistStatic
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


TEXT = LINE * 2
PACKED = DataFile("set/two.amat", hashlib.sha256(TEXT).hexdigest(), ("http://127.0.0.1/two.amat",), 3136, gzipped=True)


def test_a_file_may_lie_there_compressed_and_its_content_counts(tmp_path: Path) -> None:
    place = tmp_path / "set" / "two.amat.gz"
    place.parent.mkdir()
    for level in (1, 9):
        place.write_bytes(gzip.compress(TEXT, level, mtime=0))
        assert PACKED.read(tmp_path) == TEXT
        assert PACKED.path_in(tmp_path) == place
    hostile = {
        gzip.compress(TEXT, mtime=0)[:25]: "not the official one",
        TEXT: "not a valid gzip file",
        gzip.compress(TEXT[:-1] + b" ", mtime=0): "is not the official one: sha256",
        gzip.compress(bytes(50_000_000), mtime=0): "is not the official one: 3137 bytes, expected 3136",
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


def test_a_pipe_is_refused_and_never_read(tmp_path: Path) -> None:
    file = DataFile("some.bin", sha256=hashlib.sha256(b"").hexdigest())
    os.mkfifo(tmp_path / "some.bin")
    with pytest.raises(UsageError, match=r"some\.bin is not a file$"):
        file.read(tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/absolute", "a/../../b"])
def test_a_data_file_lies_below_the_folder_of_data_sets(path: str) -> None:
    with pytest.raises(ValueError, match="must be below the folder of data sets"):
        DataFile(path, "0" * 64)


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
    with pytest.raises(UsageError, match="is not a file") as caught:
        source().load(tmp_path)
    one_line(caught, place)
