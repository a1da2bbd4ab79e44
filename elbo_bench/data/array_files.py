"""Arrays in the user's own .npy, .npz and .pt files: headers are checked first, nothing is run or unpacked to disk."""

import dataclasses
import functools
import hashlib
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.progress import ProgressLine

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
LONGEST_HEADER = 2**14  # NumPy itself takes 10,000 bytes of them
_MOST_DEFLATED = 1040  # DEFLATE makes nothing smaller than 1/1032 (RFC 1951)


@runtime_checkable
class Stored(Protocol):
    """An array of examples that lies in a file, or in many; its rows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N, *data]`."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values, as they lie there."""
        ...

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return some rows, as they lie there.

        Raises:
            RunFailedError: They cannot be read, or have changed since the array was opened.
        """
        ...

    def where(self, row: int) -> str:
        """Return where a row lies, for a message."""
        ...


@dataclasses.dataclass(eq=False)
class FileArray:
    """An array in one file, which is opened at the first read; a copy in another process opens it for itself.

    Attributes:
        label: The file and the array's name within it, for messages.
        place: The file.
        shape: `[N, *data]`.
        dtype: Of the values, as they lie there.
        opened: Gives the values: a map of the file, or all of them.
    """

    label: str
    place: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    opened: Callable[[], np.ndarray]

    def __post_init__(self) -> None:
        if self.dtype.hasobject:
            raise UsageError(f"{self.label} holds Python objects, which only a pickle can bring back: save numbers")
        if self.dtype.kind not in "buif":
            raise UsageError(f"{self.label} holds {self.dtype}: values are to be whole or floating-point numbers")
        if len(self.shape) < 2:
            raise UsageError(
                f"{self.label} has the shape {self.shape}: examples want an axis to count them and one more at least"
            )
        if min(self.shape) < 1:
            raise UsageError(f"{self.label} has the shape {self.shape}: it holds no value")
        self._values: np.ndarray | None = None
        self._state = _state(self.place)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_values": None}

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Return some rows, as they lie there.

        Raises:
            RunFailedError: They cannot be read, or the file has changed since the array was opened.
        """
        try:
            # To touch a map of a file that was cut short meanwhile would kill the process.
            if _state(self.place) != self._state:
                raise RunFailedError(f"{self.label} has changed since it was opened")
            if self._values is None:
                self._values = self.opened()
            return np.asarray(self._values[ids])
        except (RunFailedError, MemoryError):
            raise
        except Exception as error:  # zlib, zipfile, torch and the operating system each have their own
            raise RunFailedError(f"{self.label} cannot be read: {first_line(error)}") from None

    def where(self, row: int) -> str:
        """Return where a row lies, for a message."""
        return f"{self.label.removesuffix(',')}, row {row},"


def arrays_in(place: Path) -> Mapping[str, Callable[[], FileArray]]:
    """Return what opens each array of a file, by the array's name; a file of one array has it under `""`.

    Opening an array reads its header: its rows are read later, and neither if it is not asked for.

    Raises:
        UsageError: The file is broken; so does opening an array that is, or that holds no rows of numbers.
    """
    label = f"array file {place}"
    try:
        if place.suffix.lower() == ".npy":
            return {"": functools.partial(_npy, place)}
        with zipfile.ZipFile(place) as archive:
            members = {info.filename: info for info in archive.infolist()}
        if place.suffix.lower() == ".npz":
            named = {name.removesuffix(".npy"): info for name, info in members.items() if name.endswith(".npy")}
            return {name: functools.partial(_member, place, info) for name, info in named.items()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise UsageError(f"{label} is compressed, as torch.save never does it")
        return {name: functools.partial(_tensor, place, name, tensor) for name, tensor in _tensors(place).items()}
    except zipfile.BadZipFile as error:
        older = ", or is one in the format before torch 1.6" if place.suffix.lower().startswith(".pt") else ""
        raise UsageError(f"{label} is broken{older}: {first_line(error)}") from None
    except (OSError, ValueError, NotImplementedError) as error:
        raise UsageError(f"{label} cannot be read: {first_line(error)}") from None


def file_sha256(place: Path) -> str:
    """Return the sha256 of a file, with a progress line if it has gigabytes; a file that is as it was is read once.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return _hashed(place, *_state(place))
    except OSError as error:
        raise UsageError(f"data file {place} cannot be read: {error.strerror or error}") from None


@functools.lru_cache(maxsize=2**16)
def _hashed(place: Path, size: int, _: int) -> str:
    """Return the sha256 of a file in the state that it is in: a run asks for it before it has a name, and again."""
    digest, done = hashlib.sha256(), 0
    with (
        place.open("rb") as file,
        ProgressLine(f"hashing {place.name}, MB", size // 10**6, enabled=size > 2**31) as line,
    ):
        while piece := file.read(2**22):
            digest.update(piece)
            done += len(piece)
            line.update(done // 10**6)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, for a message."""
    words = getattr(error, "strerror", None) or str(error)
    return (words.splitlines() or [type(error).__name__])[0][:200]


def _npy(place: Path) -> FileArray:
    label = f"array file {place}"
    try:
        with place.open("rb") as file:
            shape, in_columns, dtype, offset = npy_header(file.read(LONGEST_HEADER), label)
        found = place.stat().st_size
    except OSError as error:
        raise UsageError(f"{label} cannot be read: {error.strerror or error}") from None
    order = "F" if in_columns else "C"
    opened = functools.partial(np.memmap, place, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
    array = FileArray(label, place, shape, dtype, opened)
    _check_size(label, shape, dtype, found - offset)
    return array


def _member(place: Path, info: zipfile.ZipInfo) -> FileArray:
    label = f"array file {place}, array {info.filename.removesuffix('.npy')!r},"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UsageError(f"{label} is compressed in a way that numpy.savez_compressed never does it")
    most = info.compress_size * (_MOST_DEFLATED if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.compress_size > place.stat().st_size or info.file_size > most:
        raise UsageError(f"{label} promises {info.file_size} bytes, and cannot hold them")
    try:
        with zipfile.ZipFile(place) as archive, archive.open(info) as file:
            shape, _, dtype, offset = npy_header(file.read(LONGEST_HEADER), label)
    except UsageError:
        raise
    except Exception as error:  # zipfile and zlib have many
        raise UsageError(f"{label} is broken: {first_line(error)}") from None
    array = FileArray(label, place, shape, dtype, functools.partial(_inflated, place, info))
    _check_size(label, shape, dtype, info.file_size - offset)
    return array


def _inflated(place: Path, info: zipfile.ZipInfo) -> np.ndarray:
    with zipfile.ZipFile(place) as archive, archive.open(info) as file:
        values: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the end of the member: only there is its checksum compared
    return values


def npy_header(content: bytes, label: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return what an array's header says: its shape, whether it lies column by column, its dtype; and where it ends."""
    head = io.BytesIO(content)  # no more is read, whatever length it claims
    try:
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            return *np.lib.format.read_array_header_1_0(head), head.tell()
        if version == (2, 0):
            return *np.lib.format.read_array_header_2_0(head), head.tell()
    except Exception as error:  # a header is a Python literal: what can be wrong with it has no end
        raise UsageError(f"{label} has no valid header: {first_line(error)}") from None
    raise UsageError(f"{label} is in version {version} of NumPy's format, which is not for plain numbers")


def _check_size(label: str, shape: tuple[int, ...], dtype: np.dtype[Any], found: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        problem = "it is not whole" if found < expected else "something follows the array"
        raise UsageError(f"{label} promises {expected} bytes {shape} of {dtype}, and has {found}: {problem}")


def _load_tensors(place: Path) -> Mapping[str, Tensor]:
    # Tensors of a mapped file cannot reach beyond it, and nothing is allocated for them, whatever their shapes say.
    content = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    if isinstance(content, Tensor):
        return {"": content}
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, and no tensor or dictionary of tensors")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _tensors(place: Path) -> Mapping[str, Tensor]:
    try:
        return _load_tensors(place)
    except pickle.UnpicklingError:  # its words advise to trust the file
        raise UsageError(
            f"array file {place} holds more than tensors, and nothing else is read, for it could run code"
        ) from None
    except Exception as error:  # torch's own, and what tensors of impossible shapes raise
        raise UsageError(f"array file {place} is no file of tensors: {first_line(error)}") from None


def _tensor(place: Path, name: str, tensor: Tensor) -> FileArray:
    label = f"array file {place}, tensor {name!r}," if name else f"array file {place}"
    try:
        dtype = tensor[:0].detach().numpy().dtype if tensor.ndim else np.dtype(np.float32)
    except Exception:  # RuntimeError or TypeError: sparse, quantised, bfloat16, ...
        raise UsageError(
            f"{label} is a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}: save it dense, as float32"
        ) from None
    array = FileArray(label, place, tuple(tensor.shape), dtype, functools.partial(_mapped_tensor, place, name))
    if tensor.numel() * dtype.itemsize > place.stat().st_size:
        raise UsageError(f"{label} promises {array.shape} of {dtype}, which are more bytes than the file has")
    return array


def _mapped_tensor(place: Path, name: str) -> np.ndarray:
    return _load_tensors(place)[name].detach().numpy()


def _state(place: Path) -> tuple[int, int]:
    found = place.stat()
    return found.st_size, found.st_mtime_ns
