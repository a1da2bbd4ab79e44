"""The IDX format of MNIST: a big-endian header of sizes, then unsigned bytes in row-major order, all gzip'd.

LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from elbo_bench.errors import UsageError

_UNSIGNED_BYTES = 0x0800
_GZIP_ONLY = 16 + zlib.MAX_WBITS


def inflate(content: bytes, limit: int, place: Path) -> bytes:
    """Return what a gzip file of one member holds, having inflated at most `limit + 1` bytes of it.

    Args:
        content: The compressed bytes.
        limit: Bytes that the file may hold.
        place: The file, for the message.

    Raises:
        UsageError: It is no gzip file, is truncated, holds more than `limit` bytes, or something follows it.
    """
    decompressor = zlib.decompressobj(_GZIP_ONLY)
    try:
        inflated = decompressor.decompress(content, limit + 1)
    except zlib.error as error:
        raise UsageError(f"data file {place} is not a valid gzip file: {error}") from None
    if len(inflated) > limit:
        raise UsageError(f"data file {place} inflates to more than the {limit} bytes that belong in it")
    if not decompressor.eof:
        raise UsageError(f"data file {place} is truncated: its gzip stream has no end")
    trailing = len(decompressor.unused_data)
    if trailing:
        raise UsageError(f"data file {place} has {trailing} bytes after the end of its gzip stream")
    return inflated


def parse_idx(content: bytes, shape: tuple[int, ...], place: Path) -> UInt8[np.ndarray, "..."]:
    """Return the read-only array of unsigned bytes that a gzip'd IDX file holds.

    Args:
        content: The compressed bytes.
        shape: The shape that the file must have: nothing is allocated because a header says so.
        place: The file, for the message.

    Raises:
        UsageError: The file is no gzip'd IDX file of unsigned bytes, or has another shape.
    """
    header = struct.Struct(f">{1 + len(shape)}I")
    size = int(np.prod(shape, dtype=np.int64))
    raw = inflate(content, header.size + size, place)
    if len(raw) < header.size:
        raise UsageError(f"data file {place} is truncated: {len(raw)} bytes, less than an IDX header")
    magic, *found = header.unpack_from(raw)
    if magic != _UNSIGNED_BYTES + len(shape):
        raise UsageError(
            f"data file {place} is no IDX file of unsigned bytes in {len(shape)} dimensions: magic number {magic:#010x}"
        )
    if tuple(found) != shape:
        raise UsageError(f"data file {place} says that its shape is {tuple(found)}, expected {shape}")
    if len(raw) != header.size + size:
        raise UsageError(f"data file {place} is truncated: {len(raw) - header.size} of {size} bytes after its header")
    return np.frombuffer(raw, dtype=np.uint8, offset=header.size).reshape(shape)
