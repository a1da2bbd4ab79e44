"""Train, validation and test examples of the user's data: by the names of arrays or folders, or by permutation."""

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
"""Names of arrays or folders that mean a split. Upper and lower case are the same."""

_ANY_NAME = "|".join(name for names in NAMES.values() for name in names)
_LIKE_A_NAME = re.compile(f"(?:{_ANY_NAME})+(?:sets?|data|images|imgs)?")
_BETWEEN_WORDS = re.compile(r"[\W\d_]+")
_NEW_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def split_named(name: str) -> str | None:
    """Return the split that a name means; None for any other name."""
    return next((split for split, names in NAMES.items() if name.casefold() in names), None)


def looks_like_split(name: str) -> bool:
    """Return whether a name contains the name of a split as a word: `train_images`, `val2017`, `testSet`, `trainval`.

    Words end at digits, at signs, and before a capital letter as in `testSet`. `contest` and `latest` are no splits.
    """
    words = _BETWEEN_WORDS.split(f"{name} {_NEW_CAPITAL.sub(' ', name)}")
    return any(_LIKE_A_NAME.fullmatch(word.casefold()) for word in words)


def named_splits(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the name of each split's array or folder, by split. Other names are ignored.

    Raises:
        UsageError: Two names mean the same split.
    """
    named: dict[str, str] = {}
    for name in names:
        if (split := split_named(name)) is None:
            continue
        if split in named:
            raise UsageError(
                f"{path}: {named[split]} and {name} both mean the {split} split: rename one of them, or set data.key"
            )
        named[split] = name
    return {split: named[split] for split in NAMES if split in named}


def split_folders(path: Path, images: Sequence[str]) -> dict[str, list[str]]:
    """Return the images of each folder that is named like a split. Without such a folder, all are under `""`.

    The highest level with such a folder counts, and levels below it do not. Folders of the same name, as in `cat/train`
    and `dog/train`, are one split.

    Args:
        path: The folder of the data, for messages.
        images: Paths of images, relative to that folder.

    Raises:
        UsageError: A folder has a name similar to a split's, as `train_images`, or an image is in no split.
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
            folder = path.joinpath(*parent.split("/")[: level + 1])
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
                f"image {path / image} is in no split, but other images are in a folder named {split}: {advice}; "
                f"rename {split} if it is not a split"
            )
        folders.setdefault(name, []).append(image)
    return folders


@dataclasses.dataclass(frozen=True)
class Splitter:
    """Assigns examples to splits.

    Attributes:
        num_validation: Number of validation examples. None takes a tenth, at most 10,000, or the file's own split.
        num_test: Number of test examples. None means the same.
        seed: Seed of the permutation.
    """

    num_validation: int | None
    num_test: int | None
    seed: int

    @property
    def words(self) -> str:
        """The rule in words, for a protocol before the sizes are known."""
        validation, test = ("a tenth" if size is None else size for size in (self.num_validation, self.num_test))
        rule = f"splits of its own or by permutation seed {self.seed}"
        return f"{rule}: num_validation={validation}, num_test={test}"

    def __call__(self, sizes: Mapping[str, int]) -> tuple[dict[str, tuple[str, Int64[Tensor, " n"]]], str]:
        """Return the array and the numbers of the examples of each split, and the rule in words.

        Numbers ascend, so examples keep their order. A larger `num_validation` does not change the test split.

        Args:
            sizes: Number of examples in the array of each split. One array without splits is under `""`.

        Raises:
            UsageError: An array has too few examples.
        """
        order = f"by permutation seed {self.seed}"
        if "" in sizes:
            total = sizes[""]
            num_test, num_validation = (_size(size, total) for size in (self.num_test, self.num_validation))
            test, validation, train = self._cut(total, num_test, num_validation)
            ids = {"train": ("", train), "validation": ("", validation), "test": ("", test)}
            return ids, f"{len(train)}/{len(validation)}/{len(test)} {order}"
        cut = []
        ids = {split: (split, torch.arange(size)) for split, size in sizes.items()}
        for split, size in (("validation", self.num_validation), ("test", self.num_test)):
            total = sizes.get(split, 0)
            if total and size is not None and size != total:
                if size > total:
                    raise UsageError(f"data.num_{split}={size}: the file's {split} split has {total} examples")
                ids[split] = split, self._permutation(total)[:size].sort().values
                cut.append(f"{split} cut from {total}")
        if "validation" not in sizes:
            total = sizes["train"]
            _, validation, train = self._cut(total, 0, _size(self.num_validation, total))
            ids |= {"train": ("train", train), "validation": ("train", validation)}
            cut.append("validation cut from train")
        words = "/".join(str(len(ids[split][1])) for split in NAMES) + " as the file has them"
        return ids, f"{words}, {' and '.join(cut)} {order}" if cut else words

    def _permutation(self, total: int) -> Int64[Tensor, " N"]:
        return Noise(self.seed, "array/split").permutation(total)

    def _cut(self, total: int, num_test: int, num_validation: int) -> list[Int64[Tensor, " n"]]:
        """Return the test, validation and training examples of one array."""
        num_train = total - num_test - num_validation
        if num_train <= 0:
            sizes = f"data.num_validation={num_validation}" + (f" and num_test={num_test}" if num_test else "")
            raise UsageError(f"{sizes}: no training example is left of {total} examples")
        return [ids.sort().values for ids in self._permutation(total).split([num_test, num_validation, num_train])]


def _size(wanted: int | None, total: int) -> int:
    return min(10_000, max(1, total // 10)) if wanted is None else wanted
