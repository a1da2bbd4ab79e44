"""The IDX format of MNIST: a big-endian header of sizes, then unsigned bytes in row-major order, all gzip'd.

LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import concurrent.futures
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from elbo_bench.data.files import DataFile
from elbo_bench.data.gzipped import inflate
from elbo_bench.errors import UsageError

_UNSIGNED_BYTES = 0x0800


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


def read_images(files: Sequence[tuple[DataFile, int]], root: Path) -> list[UInt8[Tensor, "N 28 28"]]:
    """Return the images of 28 x 28 bytes of some files, each of which must hold so many; read side by side.

    Raises:
        UsageError: A file is missing or is not the official one.
    """

    def read(file: DataFile, num_images: int) -> Tensor:
        images = parse_idx(file.read(root), (num_images, 28, 28), file.place(root))
        return torch.from_numpy(images.copy())  # a copy, for torch has no read-only tensors

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(read, *zip(*files, strict=True)))
