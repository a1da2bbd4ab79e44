"""Arrays and image folders that tests save and read again as the data set `array`."""

import hashlib
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elbo_bench.data.dataset import Dataset
from elbo_bench.data.own.array import Array
from elbo_bench.data.own.image_folder import ImageArray, image_arrays, image_names
from elbo_bench.errors import UsageError

NOWHERE = Path("no-root")
N = 40


def grey(num: int = N, *shape: int) -> np.ndarray:
    """Bytes that all differ in their first value, so that examples can be told apart."""
    values = np.random.default_rng(0).integers(0, 256, (num, *(shape or (4, 3))), dtype=np.uint8)
    values.reshape(num, -1)[:, 0] = np.arange(num)
    return values


def save_npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def save_npz(folder: Path, array: np.ndarray) -> Path:
    np.savez_compressed(folder / "x.npz", some=array)
    return folder / "x.npz"


def save_pt(folder: Path, array: np.ndarray) -> Path:
    torch.save(torch.from_numpy(np.ascontiguousarray(array)), folder / "x.pt")
    return folder / "x.pt"


def save_images(folder: Path, array: np.ndarray) -> Path:
    for i, image in enumerate(array):
        (folder / "images").mkdir(exist_ok=True)
        pixels = image.transpose(1, 2, 0) if image.ndim == 3 else image
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "images" / f"{i:04d}.png")
    return folder / "images"


def load(path: Path, **fields: Any) -> Dataset:
    return Array(**({"path": str(path), "values": "levels"} | fields)).load(NOWHERE)


def expected_ids(num: int, num_validation: int, num_test: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The rule once more, by NumPy alone: the order is Philox keyed by the seed and the purpose."""
    key = np.frombuffer(hashlib.blake2b(f"{seed}/array/split".encode(), digest_size=16).digest(), dtype="<u8")
    order = np.random.Generator(np.random.Philox(key=key)).permutation(num)
    test, validation, train = np.split(order, [num_test, num_test + num_validation])
    return np.sort(train), np.sort(validation), np.sort(test)


def rows_of(data: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return data.train[torch.arange(len(data.train))], data.validation, data.test


def images(folder: Path, mode: str = "L", size: tuple[int, int] = (6, 5), num: int = 12, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(num):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(
            folder / f"{i:02}{suffix}"
        )
    return folder


def arrays_of(folder: Path) -> ImageArray:
    return image_arrays(folder, {"": image_names(folder)})[""]


def refused_image(folder: Path, name: str, words: str, **fields: Any) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load(folder, **fields)
    assert str(caught.value).startswith(f"image {folder / name} ")
    assert "\n" not in str(caught.value)


def refused(path: Path, words: str, **fields: Any) -> None:
    """Check that a file is refused in one line that names it, and that less than 50 MB of memory is touched."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=words) as caught:
        load(path, **fields)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
