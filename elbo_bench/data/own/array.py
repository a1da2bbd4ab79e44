"""The user's own data: an array in a file, or a folder of images."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.examples import Examples
from elbo_bench.data.own import array_files, array_splits, image_folder
from elbo_bench.data.own.array_examples import GREY, ArrayExamples, ValueCheck, describe
from elbo_bench.data.own.array_files import FileArray, Stored
from elbo_bench.data.own.array_splits import Splitter
from elbo_bench.data.pixels import LogitAlpha, Pixels, TestBinarization, Values
from elbo_bench.errors import RunFailedError, UsageError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array(DataSource):
    """Examples in a `.npy`, `.npz` or `.pt` file, or in a folder of images.

    Arrays or folders named train, validation and test (all names: `array_splits.NAMES`) are the splits. Without
    validation, a part of train is used for validation. Names that only look like splits are refused. Other data are
    one array `[N, ...]`, which a fixed permutation splits. Examples keep their order within a split. Integers become
    bytes and other numbers float32.

    Attributes:
        path: File or folder. It is looked for in the current folder, then in the folder of data sets.
        sha256: Hash of the file's bytes; for a folder, of the names and hashes of its images. Other content is refused.
        key: Name of one array in the file, or of one split's folder. Only this one is used, and split by permutation.
        values: What the values are: a protocol for grey values, `binary` (zeros and ones, used as they are), or
            `continuous` (floating-point numbers, used as they are).
        num_levels: Number of levels of integers, 0 .. num_levels - 1. The last level is white.
        num_validation: Number of validation examples. None takes a tenth, at most 10,000, or the file's own split.
        num_test: Number of test examples. None means the same.
        split_seed: Seed of the permutation.
        test_binarization: `fixed`: `dynamic` test observations are the same in every run. `resample`: they are drawn
            with the run's seed.
        logit_alpha: Distance that `logit` keeps from 0 and 1.
        in_memory: Whether training examples are loaded into memory. False reads them from the file during training.
        readers: Number of processes that read training examples ahead. It does not change results.
    """

    path: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    key: str | None = None
    values: Values | Literal["binary", "continuous"] | None = None
    num_levels: Annotated[int, Field(ge=2, le=256)] = 256
    num_validation: PositiveInt | None = None
    num_test: PositiveInt | None = None
    split_seed: NonNegativeInt = 0
    test_binarization: TestBinarization = "fixed"
    logit_alpha: LogitAlpha = 1e-6
    in_memory: bool = True
    readers: NonNegativeInt = 2

    licence: ClassVar[str] = "the user's own"
    citation: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._pixels() is None and self.test_binarization == "resample":  # Pixels checks its own values
            raise ValueError(f"test_binarization=resample: values={self.values or 'null'} draws nothing at an access")
        if not self.in_memory and self.values in ("fixed", "threshold"):
            raise ValueError(f"in_memory=false: values={self.values} draws training data once and keeps it in memory")

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous" if self.values in ("dequantised", "logit", "continuous") else "discrete"

    @property
    def protocol(self) -> str:
        """The rule for splits, whose sizes only the file knows, and what observations are."""
        words = "values not chosen" if self.values is None else self._words(self.num_levels - 1)
        return self._protocol(self._splitter.words, words)

    def with_content_hash(self, root: Path) -> "Array":
        """Return the source with the sha256 of its content, which identifies the data wherever the file lies.

        Raises:
            UsageError: The file does not exist, or does not have the sha256 that is configured.
        """
        path = self._path(root)
        images = _images(path)
        found = image_folder.folder_sha256(path, images) if images else array_files.file_sha256(path)
        if self.sha256 is not None and found != self.sha256:
            raise UsageError(
                f"data.path={self.path}: {path} is not the file that data.sha256 names: "
                f"sha256 {found[:16]}..., expected {self.sha256[:16]}..."
            )
        return dataclasses.replace(self, sha256=found)

    def load(self, root: Path) -> Dataset:
        """Read the splits.

        Raises:
            UsageError: The file does not exist, does not have the configured sha256, is broken, or does not hold the
                arrays or values that the fields say.
        """
        try:
            return self.with_content_hash(root)._dataset(self._path(root))
        except RunFailedError as error:  # no run has started yet
            raise UsageError(str(error)) from None

    def _path(self, root: Path) -> Path:
        suffixes = ", ".join(array_files.SUFFIXES)
        if self.path is None:
            raise UsageError(f"data.path is not set: data=array needs the path of a {suffixes} file or image folder")
        try:
            # Absolute paths, since a reader process may start in another folder.
            given = Path(self.path).expanduser()
            paths = [Path(os.path.abspath(folder / given)) for folder in (Path(), root)]  # noqa: PTH100
            path = next((path for path in paths if path.exists()), None)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"data.path={self.path}: {array_files.first_line(error)}") from None
        if path is None:
            raise UsageError(f"data.path={self.path}: not found: {' or '.join(dict.fromkeys(map(str, paths)))}")
        if not path.is_dir() and not (path.is_file() and path.suffix.lower() in array_files.SUFFIXES):
            raise UsageError(f"data.path={self.path}: it is neither a {suffixes} file nor a folder of images")
        return path

    def _dataset(self, path: Path) -> Dataset:
        arrays = self._arrays(path)
        if not self.in_memory and path.suffix.lower() == ".npz" and path.is_file():
            raise UsageError(f"data.in_memory=false: {path} cannot be read in part; save its arrays as .npy or .pt")
        check = self._check(path, arrays)
        ids, rule = self._splitter({name: array.shape[0] for name, array in arrays.items()})
        splits = {split: ArrayExamples(arrays[name], numbers, check) for split, (name, numbers) in ids.items()}
        validation, test = (splits[split].in_memory(f"reading {split}") for split in ("validation", "test"))
        self._check_held_out(path, check, validation, test)
        train: Examples = splits["train"].in_memory("reading train") if self.in_memory else splits["train"]
        protocol = self._protocol(rule, self._words(check.top))
        assert self.sha256 is not None
        files = {"array": self.sha256}  # the same key for every file name
        if pixels := self._pixels(check.top):
            return pixels.dataset("array", protocol, (train, validation, test), files)
        assert self.values is not None
        return Dataset(
            name="array",
            protocol=protocol,
            values=self.values,
            num_levels=2 if self.values == "binary" else None,
            train=train,
            validation=validation.float(),
            test=test.float(),
            files=files,
        )

    def _arrays(self, path: Path) -> Mapping[str, Stored]:
        """Return the array of each split. One array without splits is under `""`."""
        if images := _images(path):
            folders = array_splits.split_folders(path, images)
            names = self._names(path, list(folders), single="" in folders)
            return image_folder.image_arrays(path, {split: folders[name] for split, name in names.items()})
        found = list(array_files.open_file(path))
        names = self._names(path, found, single=len(found) == 1)
        arrays = {split: FileArray(path, name) for split, name in names.items()}
        first = next(iter(arrays.values()))
        for split, array in arrays.items():
            if array.shape[1:] != first.shape[1:]:
                raise UsageError(
                    f"{path}: examples of {split} have the shape {array.shape[1:]}, those of train {first.shape[1:]}"
                )
            if (array.dtype.kind == "f") != (first.dtype.kind == "f"):
                raise UsageError(f"{path}: {split} holds {array.dtype}, train {first.dtype}")
        return arrays

    def _names(self, path: Path, found: Sequence[str], *, single: bool) -> dict[str, str]:
        """Return the name of each split's array. An array that is to be split by permutation is under `""`."""
        if self.key is not None:
            if "" in found:
                raise UsageError(f"data.key={self.key}: {path} is one array, without a name")
            if self.key not in found:
                raise UsageError(f"data.key={self.key}: {path} has no such array; {nearest(self.key, found)}")
            return {"": self.key}
        if single:
            return {"": found[0]}
        named = array_splits.named_splits(path, found)
        if "train" in named and "test" in named:
            return named
        if path.is_dir():
            raise UsageError(
                f"folder {path} is split into {' and '.join(named.values())}, but train and test are needed "
                "(validation is optional): add the missing folder, or set data.key to one of these names to split it"
            )
        holds = f"{len(found)} arrays: {', '.join(sorted(found))}" if found else "no array"
        alike = sorted(name for name in found if array_splits.looks_like_split(name))
        advice = f"; if {', '.join(alike)} are splits, name them train, validation and test" if alike else ""
        raise UsageError(
            f"data.key is not set: {path} holds {holds}; one array is needed, or train, validation and test{advice}"
        )

    def _check(self, path: Path, arrays: Mapping[str, Stored]) -> ValueCheck:
        if self.values is None:
            raise UsageError(f"data.values is not set: {path} holds {describe(arrays.values())}")
        real = next(iter(arrays.values())).dtype.kind == "f"
        if self.values == "continuous":
            if not real:
                raise UsageError(f"data.values=continuous: {path} holds {describe(arrays.values())}")
            return ValueCheck(self.values, "real")
        if self.values in GREY and real:
            return ValueCheck(self.values, "unit")
        return ValueCheck(self.values, "integer", 1 if self.values == "binary" else self.num_levels - 1)

    def _check_held_out(self, path: Path, check: ValueCheck, validation: Tensor, test: Tensor) -> None:
        """Raise if validation and test examples show that `values` is a mistake."""
        held_out = validation, test
        if check.kind == "real" and all(bool((split == split.round()).all()) for split in held_out):
            raise UsageError(
                f"data.values=continuous: {path} holds integers, which have no density: take levels or dequantised, "
                "or add noise to them"
            )
        if self.values in GREY and check.kind == "integer" and all(int(x.max()) <= 1 < check.top for x in held_out):
            raise UsageError(
                f"data.values={self.values}: {path} holds only zeros and ones, but white is {check.top}: take "
                "values=binary"
            )

    @property
    def _splitter(self) -> Splitter:
        return Splitter(self.num_validation, self.num_test, self.split_seed)

    def _protocol(self, splits: str, values: str) -> str:
        content = "" if self.sha256 is None else f" sha256 {self.sha256[:16]}"
        key = "" if self.key is None else f", key {self.key!r}"
        return f"the user's array{content}{key}, {splits}; {values}"

    def _words(self, top: int) -> str:
        if pixels := self._pixels(top):
            return pixels.words
        return "zeros and ones as they are" if self.values == "binary" else "floating-point numbers as they are"

    def _pixels(self, top: int = 1) -> Pixels | None:
        """Return how grey values become observations; None where values are observations already."""
        if self.values is None or self.values == "binary" or self.values == "continuous":
            return None
        return Pixels(self.values, top, test_binarization=self.test_binarization, logit_alpha=self.logit_alpha)


def _images(path: Path) -> tuple[str, ...]:
    return image_folder.image_names(path) if path.is_dir() else ()
