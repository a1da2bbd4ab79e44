"""Arrays in the user's own .npy, .npz and .pt files. Reading them never executes code."""

import functools
import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.progress import ProgressLine

SUFFIXES = (".npy", ".npz", ".pt", ".pth")


@runtime_checkable
class Stored(Protocol):
    """An array of examples in one file or in many files. Examples are read on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N, *data]`."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values in the file."""
        ...

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return the examples with these numbers, in the type of the file.

        Raises:
            RunFailedError: The examples cannot be read, or the file has changed since it was opened.
        """
        ...

    def where(self, example: int) -> str:
        """Return the file, or the file and the number, of an example, for a message."""
        ...


class FileArray:
    """An array in one file. A copy in another process opens the file again.

    Args:
        path: The file.
        name: Name of the array in the file; empty if the file holds a single array without a name.

    Raises:
        UsageError: The file is broken, or the array does not hold examples of numbers.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path, self._name = path, name
        self.label = f"array file {path}, array {name!r}" if name else f"array file {path}"
        self._state = _state(path)
        values = self._open()
        self.shape, self.dtype = values.shape, values.dtype
        self._values: np.ndarray | None = values
        if self.dtype.kind not in "buif":
            raise UsageError(f"{self.label} holds {self.dtype}: values must be integers or floating-point numbers")
        if len(self.shape) < 2:
            raise UsageError(f"{self.label} has the shape {self.shape}: it needs [N, ...] with one more axis at least")
        if min(self.shape) < 1:
            raise UsageError(f"{self.label} has the shape {self.shape}: it holds no value")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_values": None}

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return the examples with these numbers, in the type of the file.

        Raises:
            RunFailedError: The examples cannot be read, or the file has changed since it was opened.
        """
        try:
            # Touching the memory map of a file that became shorter would kill the process.
            if _state(self._path) != self._state:
                raise RunFailedError(f"{self.label} has changed since it was opened")
            if self._values is None:
                self._values = self._open()
            return np.asarray(self._values[ids])
        except (UsageError, OSError) as error:
            raise RunFailedError(f"{self.label} cannot be read: {first_line(error)}") from None

    def where(self, example: int) -> str:
        """Return the file and the number of an example, for a message."""
        return f"{self.label}, example {example}"

    def _open(self) -> np.ndarray:
        """Return the values: a memory map, or for .npz an array in memory."""
        arrays = open_file(self._path)
        try:
            values = arrays[self._name]
            if isinstance(values, Tensor):
                if values.numel() * values.element_size() > self._path.stat().st_size:
                    raise ValueError(f"it promises {tuple(values.shape)} values, more than the file has bytes for")
                values = values.detach().numpy()
            if not isinstance(values, np.ndarray):
                raise TypeError("it is not an array")
            return values
        except Exception as error:  # zipfile, zlib, NumPy and torch raise many kinds
            raise UsageError(f"{self.label} cannot be read: {first_line(error)}") from None
        finally:
            if isinstance(arrays, np.lib.npyio.NpzFile):
                arrays.close()


def open_file(path: Path) -> Mapping[str, Any]:
    """Return the NumPy arrays or tensors of a file by name. A single array without a name is under `""`.

    Values are read from the file on demand.

    Raises:
        UsageError: The file is broken, or holds objects that could execute code.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            with np.errstate(over="raise"):  # a product of sizes in a broken header
                return {"": np.lib.format.open_memmap(path, mode="r")}
        with zipfile.ZipFile(path) as archive:
            compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        if suffix == ".npz":
            archive_of_arrays: Mapping[str, Any] = np.load(path, allow_pickle=False)
            return archive_of_arrays
        if compressed:
            raise ValueError("it is compressed, and torch.load cannot map it")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:  # its message advises to trust the file
        raise UsageError(
            f"array file {path} holds other objects than tensors. They could execute code, so it is not read"
        ) from None
    except zipfile.BadZipFile as error:
        older = ", or has the format that torch wrote before version 1.6" if suffix != ".npz" else ""
        raise UsageError(f"array file {path} is broken{older}: {first_line(error)}") from None
    except Exception as error:  # NumPy and torch raise many kinds
        raise UsageError(f"array file {path} cannot be read: {first_line(error)}") from None
    if isinstance(content, Tensor):
        return {"": content}
    if not isinstance(content, dict):
        raise UsageError(f"array file {path} holds a {type(content).__name__}: save a tensor or a dict of tensors")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file. Shows a progress line above 2 GB. A file that has not changed is hashed once.

    Raises:
        UsageError: The file cannot be read.
    """
    try:
        return _hashed(path, *_state(path))
    except OSError as error:
        raise UsageError(f"data file {path} cannot be read: {error.strerror or error}") from None


@functools.lru_cache(maxsize=2**16)
def _hashed(path: Path, size: int, _: int) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file, ProgressLine(f"hashing {path.name}, MB", size // 10**6, enabled=size > 2**31) as line:
        while piece := file.read(2**22):
            digest.update(piece)
            done += len(piece)
            line.update(done // 10**6)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    words = getattr(error, "strerror", None) or str(error)
    return (words.splitlines() or [type(error).__name__])[0][:200]


def _state(path: Path) -> tuple[int, int]:
    """Return size and time of change, which differ after the file has changed."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
