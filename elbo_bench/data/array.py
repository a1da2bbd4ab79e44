"""The user's own data: an array in a file, or a folder of images, by its path."""

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from elbo_bench.data import array_files, array_splits, image_folder
from elbo_bench.data.array_files import Stored
from elbo_bench.data.array_rows import GREY, ArrayRows, Coding, Content
from elbo_bench.data.array_splits import Splitter
from elbo_bench.data.dataset import Dataset, DataSource
from elbo_bench.data.pixels import LogitAlpha, Pixels, TestBinarization, Values
from elbo_bench.data.rows import Rows
from elbo_bench.errors import RunFailedError, UsageError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Array(DataSource):
    """Examples in a `.npy`, `.npz` or `.pt` file, or in a folder of images.

    Arrays or folders named train, validation and test (or as in `array_splits.NAMES`) are the splits; without
    validation, it is a part of train. Other names that look like splits are refused. Anything else is one array
    `[N, ...]`, which is split by a fixed permutation. Within a split, examples keep their order. Whole numbers become
    bytes, and other numbers float32, in memory or not.

    Attributes:
        path: The file or the folder: from the current folder or, if it is not there, from the folder of data sets.
        sha256: Of the file's bytes or, for a folder, of its images' names and hashes; other content is refused.
        key: Name of the array, if a file holds several, or of the folder of one split. It is split as one array.
        values: What the values are: one of the protocols for grey values, or `binary`, zeros and ones as they are, or
            `continuous`, floating-point numbers as they are.
        num_levels: Levels of whole numbers, 0 .. num_levels - 1; the last is the grey value that is surely ink.
        num_validation: Validation examples; None takes a tenth, at most 10,000, or those that the file has.
        num_test: Test examples; the same.
        split_seed: Of the permutation.
        test_binarization: Whether `dynamic` test observations are the same in every run, or drawn with its seed.
        logit_alpha: How far `logit` stays from 0 and 1.
        in_memory: Whether training examples are brought into memory; False reads them from the file while training.
        readers: Processes that read them ahead then; they change no bit.
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
        if self.values in get_args(Values):
            _ = self._pixels()  # refuses what does not fit together
        elif self.test_binarization == "resample":
            raise ValueError(f"test_binarization=resample: values={self.values or 'null'} draws nothing at an access")
        if not self.in_memory and self.values in ("fixed", "threshold"):
            raise ValueError(
                f"in_memory=false: values={self.values} draws training data once, and keeps them in memory"
            )

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous" if self.values in ("dequantised", "logit", "continuous") else "discrete"

    @property
    def protocol(self) -> str:
        """One line that says how the splits are made, whose sizes only the file knows, and what observations are."""
        words = "values not chosen" if self.values is None else self._words(self.num_levels - 1)
        return self._protocol(self._splitter.words, words)

    def pinned(self, root: Path) -> "Array":
        """Return the source with the sha256 of its content, which is what it stands for, wherever that lies.

        Raises:
            UsageError: There is no such file, or it has another sha256 than the one that is given.
        """
        place = self._place(root)
        return dataclasses.replace(self, sha256=self._measured(place, _images(place)))

    def load(self, root: Path) -> Dataset:
        """Read the splits.

        Raises:
            UsageError: There is no such file, or not the one with this sha256; it is broken; it has not the
                arrays or the values that the fields say.
        """
        place = self._place(root)
        images = _images(place)
        source = dataclasses.replace(self, sha256=self._measured(place, images))
        try:
            return source._dataset(place, images)
        except RunFailedError as error:  # nothing has run yet
            raise UsageError(str(error)) from None

    def _place(self, root: Path) -> Path:
        if self.path is None:
            raise UsageError(
                "data.path is not set: data=array wants the path of a .npy, .npz or .pt file or image folder"
            )
        # Absolute, for a reader may be started in another folder than this one.
        try:
            given = Path(self.path).expanduser()
            places = [Path(os.path.abspath(folder / given)) for folder in (Path(), root)]  # noqa: PTH100
            place = next((place for place in places if place.exists()), None)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"data.path={self.path}: {array_files.first_line(error)}") from None
        if place is None:
            looked = " or ".join(dict.fromkeys(str(place) for place in places))
            raise UsageError(f"data.path={self.path}: there is no {looked}; give the path where it lies now")
        if not place.is_dir() and not (place.is_file() and place.suffix.lower() in array_files.SUFFIXES):
            raise UsageError(
                f"data.path={self.path}: it is neither a {', '.join(array_files.SUFFIXES)} file nor a folder of images"
            )
        return place

    def _measured(self, place: Path, images: tuple[str, ...]) -> str:
        found = image_folder.folder_sha256(place, images) if images else array_files.file_sha256(place)
        if self.sha256 is not None and found != self.sha256:
            raise UsageError(
                f"data.path={self.path}: {place} is not the file that data.sha256 names: "
                f"sha256 {found[:16]}..., expected {self.sha256[:16]}..."
            )
        return found

    def _dataset(self, place: Path, images: tuple[str, ...]) -> Dataset:
        arrays = self._arrays(place, images)
        if not self.in_memory and place.suffix.lower() == ".npz" and not images:
            raise UsageError(f"data.in_memory=false: {place} cannot be read in part; save its arrays as .npy or .pt")
        if self.values is None:
            raise UsageError(f"data.values is not set: {place} holds {Content.of(arrays.values())}")
        coding = self._coding(place, arrays)
        parts, splits = self._splitter({name: array.shape[0] for name, array in arrays.items()})
        rows = {split: ArrayRows(arrays[name], part, coding) for split, (name, part) in parts.items()}
        held_out = rows["validation"].in_memory("reading validation"), rows["test"].in_memory("reading test")
        self._check_held_out(place, coding, held_out)
        train: Rows = rows["train"].in_memory("reading train") if self.in_memory else rows["train"]
        protocol = self._protocol(splits, self._words(coding.top))
        assert self.sha256 is not None
        files = {"array": self.sha256}  # whatever its name is
        if self.values not in ("binary", "continuous"):
            return self._pixels(coding.top).dataset("array", protocol, (train, *held_out), files)
        validation, test = (split.float() for split in held_out)
        num_levels = 2 if self.values == "binary" else None
        return Dataset(
            name="array",
            protocol=protocol,
            values=self.values,
            num_levels=num_levels,
            train=train,
            validation=validation,
            test=test,
            files=files,
        )

    def _arrays(self, place: Path, images: tuple[str, ...]) -> Mapping[str, Stored]:
        """Return the array of each split that is there or, under `""`, the one array."""
        if images:
            folders = array_splits.split_folders(place, images)
            names = self._chosen(place, folders, one="" in folders)
            return image_folder.image_arrays(place, {split: folders[name] for split, name in names.items()})
        opened = array_files.arrays_in(place)
        names = self._chosen(place, opened, one=len(opened) == 1)
        arrays = {split: opened[name]() for split, name in names.items()}
        _check_alike(place, arrays)
        return arrays

    def _chosen(self, place: Path, found: Collection[str], *, one: bool) -> dict[str, str]:
        """Return the name of each split's array or, under `""`, the name of the one array that is to be split."""
        if self.key is not None:
            if "" in found:
                raise UsageError(f"data.key={self.key}: {place} is one array, without a name")
            if self.key not in found:
                raise UsageError(f"data.key={self.key}: {place} has no such array; {nearest(self.key, found)}")
            return {"": self.key}
        if one:
            return {"": next(iter(found))}
        named = array_splits.named_splits(place, found)
        if "train" in named and "test" in named:
            return named
        if place.is_dir():
            raise UsageError(
                f"folder {place} is split into {' and '.join(named.values())}, but train and test are needed "
                "(validation may be missing): add what is missing, or set data.key to one of these names to split it"
            )
        holds = f"holds {len(found)} arrays: {', '.join(sorted(found))}" if found else "holds no array"
        alike = sorted(name for name in found if array_splits.looks_like_split(name))
        advice = f"; if {', '.join(alike)} are splits, name them train, validation and test" if alike else ""
        raise UsageError(f"data.key is not set: {place} {holds}; one is wanted, or train, validation and test{advice}")

    def _coding(self, place: Path, arrays: Mapping[str, Stored]) -> Coding:
        real = next(iter(arrays.values())).dtype.kind == "f"
        assert self.values is not None
        if self.values == "continuous":
            if not real:
                raise UsageError(f"data.values=continuous: {place} holds {Content.of(arrays.values())}")
            return Coding(self.values, "real")
        if self.values in GREY and real:
            return Coding(self.values, "unit")
        return Coding(self.values, "whole", 1 if self.values == "binary" else self.num_levels - 1)

    def _check_held_out(self, place: Path, coding: Coding, splits: tuple[Tensor, Tensor]) -> None:
        """Refuse what validation and test examples show to be of another kind than `values` says."""
        if coding.kind == "real" and all(bool((split == split.round()).all()) for split in splits):
            raise UsageError(
                f"data.values=continuous: {place} holds whole numbers, which have no density: take levels or "
                "dequantised, or add noise to them"
            )
        if self.values in GREY and coding.kind == "whole" and coding.top > 1 and all(int(x.max()) <= 1 for x in splits):
            raise UsageError(
                f"data.values={self.values}: {place} holds zeros and ones and no grey of {coding.top}: values=binary "
                "takes them as they are"
            )

    @property
    def _splitter(self) -> Splitter:
        return Splitter(self.num_validation, self.num_test, self.split_seed)

    def _protocol(self, splits: str, values: str) -> str:
        content = "" if self.sha256 is None else f" sha256 {self.sha256[:16]}"
        key = "" if self.key is None else f", key {self.key!r}"
        return f"the user's array{content}{key}, {splits}; {values}"

    def _words(self, top: int) -> str:
        if self.values == "binary":
            return "zeros and ones as they are"
        return "floating-point numbers as they are" if self.values == "continuous" else self._pixels(top).words

    def _pixels(self, top: int = 1) -> Pixels:
        assert self.values is not None
        assert self.values != "binary"
        assert self.values != "continuous"
        return Pixels(self.values, top, test_binarization=self.test_binarization, logit_alpha=self.logit_alpha)


def _images(place: Path) -> tuple[str, ...]:
    return image_folder.image_names(place) if place.is_dir() else ()


def _check_alike(place: Path, arrays: Mapping[str, Stored]) -> None:
    first = next(iter(arrays.values()))
    for split, array in arrays.items():
        if array.shape[1:] != first.shape[1:]:
            raise UsageError(
                f"{place}: examples of {split} have the shape {array.shape[1:]}, those of train {first.shape[1:]}"
            )
        if (array.dtype.kind == "f") != (first.dtype.kind == "f"):
            raise UsageError(f"{place}: {split} holds {array.dtype}, train {first.dtype}")
