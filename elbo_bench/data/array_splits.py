"""Which examples of which array each split has: as names in the user's data say, or by a fixed permutation."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""The names that an array or a folder of each split may have, in any case."""

_ANY_NAME = "|".join(name for names in NAMES.values() for name in names)
_LIKE_A_NAME = re.compile(f"(?:{_ANY_NAME})+(?:sets?|data|images|imgs)?")
_BETWEEN_WORDS = re.compile(r"[\W\d_]+")
_NEW_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_named(name: str) -> str | None:
    """Return the split that a name means, or None."""
    return next((split for split, names in NAMES.items() if name.casefold() in names), None)


def looks_like_split(name: str) -> bool:
    """Return whether a word of a name is the name of a split, as in `train_images`, `val2017`, `testSet`, `trainval`.

    Words end at digits, at other signs that are no letters, and at capitals as in `testSet`. They are compared whole:
    `contest` and `latest` are no splits.
    """
    words = _BETWEEN_WORDS.split(f"{name} {_NEW_CAPITAL.sub(' ', name)}")
    return any(_LIKE_A_NAME.fullmatch(word.casefold()) for word in words)


def named_splits(place: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the name that each split has among the names of arrays or folders.

    Raises:
        UsageError: Two names mean the same split.
    """
    named: dict[str, str] = {}
    for name in names:
        if (split := split_named(name)) is None:
            continue
        if split in named:
            raise UsageError(
                f"{place}: {named[split]} and {name} both mean the {split} split: rename one of them, or set data.key"
            )
        named[split] = name
    return {split: named[split] for split in NAMES if split in named}


def split_folders(place: Path, images: Sequence[str]) -> dict[str, list[str]]:
    """Return the images of each folder that is named as a split or, if no folder looks like one, all under `""`.

    Only the highest level is looked at on which a folder looks like a split. Folders of one name, as in `cat/train` and
    `dog/train`, are one.

    Args:
        place: The folder of the data, for messages.
        images: Paths of images, relative to that folder.

    Raises:
        UsageError: A folder only looks like a split, or an image is in no split.
    """
    parents = list(dict.fromkeys(image.rpartition("/")[0] for image in images))
    levels = list(itertools.zip_longest(*(parent.split("/") for parent in parents), fillvalue=""))
    level = next((i for i, names in enumerate(levels) if any(map(looks_like_split, set(names)))), None)
    if level is None:
        return {"": list(images)}
    names = levels[level]
    advice = "name the folders train, validation and test, or give one of them as data.path"
    for parent, name in zip(parents, names, strict=True):
        if looks_like_split(name) and split_named(name) is None:
            folder = place.joinpath(*parent.split("/")[: level + 1])
            raise UsageError(
                f"folder {folder} looks like a split, but is not named train, validation or test: {advice}; "
                f"rename {name} if it is not a split"
            )
    name_of = dict(zip(parents, names, strict=True))
    folders: dict[str, list[str]] = {}
    for image in images:
        name = name_of[image.rpartition("/")[0]]
        if split_named(name) is None:
            split = next(filter(split_named, names))
            raise UsageError(
                f"image {place / image} is in no split, but other images are in a folder named {split}: {advice}; "
                f"rename {split} if it is not a split"
            )
        folders.setdefault(name, []).append(image)
    return folders


@dataclasses.dataclass(frozen=True)
class Part:
    """Some examples of an array, in the array's order: those at places `start` .. `stop - 1` of a fixed random order.

    Attributes:
        total: Examples of the array.
        start: The first place.
        stop: The place after the last.
        seed: Of the order.
    """

    total: int
    start: int
    stop: int
    seed: int

    def __len__(self) -> int:
        return self.stop - self.start

    def ids(self) -> Int64[Tensor, " n"]:
        """Return the numbers of the examples, ascending."""
        if len(self) == self.total:
            return torch.arange(self.total)
        return Noise(self.seed, "array/split").permutation(self.total)[self.start : self.stop].sort().values


@dataclasses.dataclass(frozen=True)
class Splitter:
    """How examples are shared out.

    Attributes:
        num_validation: Validation examples; None takes a tenth, at most 10,000, or those that the file has.
        num_test: Test examples; the same.
        seed: Of the permutation.
    """

    num_validation: int | None
    num_test: int | None
    seed: int

    @property
    def words(self) -> str:
        """What a protocol says of it as long as the sizes are not known."""
        validation, test = ("a tenth" if size is None else size for size in (self.num_validation, self.num_test))
        rule = f"splits of its own or by permutation seed {self.seed}"
        return f"{rule}: num_validation={validation}, num_test={test}"

    def __call__(self, sizes: Mapping[str, int]) -> tuple[dict[str, tuple[str, Part]], str]:
        """Return the array and the examples of each split, and in words how they were chosen.

        Args:
            sizes: Examples of the array of each split or, under `""`, of the one array.

        Raises:
            UsageError: There are too few of them.
        """
        parts: dict[str, tuple[str, Part]] = {}
        order, cut = f"by permutation seed {self.seed}", []
        if "" in sizes:
            num_test, num_validation = (_size(size, sizes[""]) for size in (self.num_test, self.num_validation))
            test, validation, train = self._cut(sizes[""], num_test, num_validation)
            parts = {"train": ("", train), "validation": ("", validation), "test": ("", test)}
            return parts, f"{_sizes(parts)} {order}"
        for split, size in (("validation", self.num_validation), ("test", self.num_test)):
            if split in sizes:
                parts[split] = split, self._head(split, sizes[split], size)
                cut += [f"{split} cut from {sizes[split]}"] if len(parts[split][1]) < sizes[split] else []
        num_validation = 0 if "validation" in sizes else _size(self.num_validation, sizes["train"])
        _, validation, train = self._cut(sizes["train"], 0, num_validation)
        parts["train"] = "train", train
        if "validation" not in sizes:
            parts["validation"] = "train", validation
            cut.append("validation cut from train")
        words = f"{_sizes(parts)} as the file has them"
        return parts, f"{words}, {' and '.join(cut)} {order}" if cut else words

    def _head(self, split: str, total: int, size: int | None) -> Part:
        if size is not None and size > total:
            raise UsageError(f"data.num_{split}={size}: the file's {split} split has {total} examples")
        return Part(total, 0, size or total, self.seed)

    def _cut(self, total: int, num_test: int, num_validation: int) -> tuple[Part, Part, Part]:
        """Return test, validation and training examples of one array; more validation ones leave the test ones be."""
        held_out = num_test + num_validation
        if held_out >= total:
            kept = f"data.num_validation={num_validation}" + (f" and num_test={num_test}" if num_test else "")
            raise UsageError(f"{kept}: of {total} examples none is left to train on")
        places = (0, num_test), (num_test, held_out), (held_out, total)
        test, validation, train = (Part(total, start, stop, self.seed) for start, stop in places)
        return test, validation, train


def _size(wanted: int | None, total: int) -> int:
    return min(10_000, max(1, total // 10)) if wanted is None else wanted


def _sizes(parts: Mapping[str, tuple[str, Part]]) -> str:
    return "/".join(str(len(parts[split][1])) for split in NAMES)
