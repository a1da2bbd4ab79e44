"""Names of arrays and folders: splits are used, names that look like splits are refused, hidden copies are skipped."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.arrays import (
    NOWHERE,
    N,
    arrays_of,
    expected_ids,
    grey,
    images,
    load,
    refused,
    refused_image,
    rows_of,
    save_images,
    save_npy,
)

from elbo_bench.data.own.array import Array
from elbo_bench.data.own.array_splits import looks_like_split, named_splits, split_folders, split_named
from elbo_bench.errors import UsageError

TRAIN, VALIDATION, TEST = ("train", "training"), ("validation", "valid", "val", "dev"), ("test", "testing")
CASES: list[Callable[[str], str]] = [str.lower, str.title, str.upper, str.swapcase]
SIZES = {"train": 6, "validation": 2, "test": 3}

# Where the image `i` of a split lies. The split of the last one is not that of its own folder.
NESTED = {
    "at the top": "{split}/{i}.bmp",
    "below images": "images/{split}/{i}.bmp",
    "below classes": "{label}/{split}/{i}.bmp",
    "above classes": "{split}/{label}/{i}.bmp",
    "above a class train": "data/{split}/train/{i}.bmp",
}
# How a name may look like a split and not be one.
LIKE = [
    *("{lower}_images", "seg_{lower}", "{lower}2017", "{upper}-1", "my {title}", "{lower} ", "X_{lower}"),
    *("{lower}Set", "Kaggle{title}", "{title}A", "{lower}set", "{upper}data", "{lower}val"),
]
NO_SPLITS = [
    "cat",
    "7",
    "contest",
    "latest",
    "strain",
    "validity",
    "trainer",
    "testament",
    "device",
    "valley",
    "images",
]
SKIPPED = [".ipynb_checkpoints", ".hidden", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", "lost+found"]


def paths(nested: str, name: str, num: int) -> list[str]:
    return [nested.format(split=name, label="cat" if i % 2 else "dog", i=i) for i in range(num)]


def save(folder: Path, form: str, splits: Mapping[str, int]) -> tuple[Path, dict[str, set[bytes]]]:
    """Save so many different images under each name; return the path and the bytes of the images."""
    rows = iter(grey(sum(splits.values()), 8, 8))
    arrays = {name: np.stack([next(rows) for _ in range(size)]) for name, size in splits.items()}
    path = folder / f"x.{form}"
    if form == "npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    elif form == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    else:
        path = folder / "x"
        for name, array in arrays.items():
            for image, place in zip(array, paths(NESTED[form], name, len(array)), strict=True):
                (path / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path / place)
    return path, {name: {image.tobytes() for image in array} for name, array in arrays.items()}


def loaded(path: Path, **fields: str) -> list[set[bytes]]:
    """Return the bytes of the images of train, validation and test."""
    return [{row.numpy().astype(np.uint8).tobytes() for row in rows} for rows in rows_of(load(path, **fields))]


def says(path: Path, *words: str) -> None:
    """Check that data are refused in one line that holds these words."""
    with pytest.raises(UsageError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# --- names of splits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", NESTED.values())
@pytest.mark.parametrize("case", CASES)
def test_every_name_of_a_split_in_every_case_is_that_split(nested: str, case: Callable[[str], str]) -> None:
    for train, validation, test in itertools.product(TRAIN, (*VALIDATION, ""), TEST):
        images = {case(name): paths(nested, case(name), 5) for name in (train, validation, test) if name}
        folders = split_folders(NOWHERE, list(itertools.chain(*images.values())))
        assert folders == images
        exact = {"train": case(train), "validation": case(validation), "test": case(test)}
        assert named_splits(NOWHERE, folders) == {split: name for split, name in exact.items() if name}


@pytest.mark.parametrize("form", ["npz", "pt", *NESTED])
@pytest.mark.parametrize("validation", [*VALIDATION, None])
def test_no_held_out_image_is_in_train(tmp_path: Path, form: str, validation: str | None) -> None:
    for (train, test), case in zip(itertools.product(TRAIN, TEST), CASES, strict=True):
        named = {"train": train, "validation": validation, "test": test}
        names = {split: case(name) for split, name in named.items() if name}
        (tmp_path / train / test).mkdir(parents=True)
        path, held = save(tmp_path / train / test, form, {name: SIZES[split] for split, name in names.items()})
        found = loaded(path)
        assert found[2] == held[names["test"]]
        assert found[0] | found[1] == held[names["train"]] | held.get(names.get("validation", ""), set())
        assert [len(some) for some in found] == ([6, 2, 3] if validation else [5, 1, 3])
        if validation:
            assert found[1] == held[names["validation"]]


@pytest.mark.parametrize("form", ["npz", *NESTED])
@pytest.mark.parametrize("names", [("train", "val"), ("Training", "dev"), ("valid", "test"), ("test", "val")])
def test_splits_without_train_or_test_are_refused(tmp_path: Path, form: str, names: tuple[str, str]) -> None:
    path, held = save(tmp_path, form, dict.fromkeys(names, 3))
    if form == "npz":
        says(path, f"holds 2 arrays: {', '.join(sorted(names))}; one array is needed, or train, validation and test")
    else:
        says(path, *names, "train and test are needed (validation is optional)", "or set data.key")
    for name in names:  # chosen by its name, each is an array of its own
        assert set().union(*loaded(path, key=name)) == held[name]


@pytest.mark.parametrize("form", list(NESTED))
@pytest.mark.parametrize("name", ["train", "Test", "dev"])
def test_one_split_alone_is_refused(tmp_path: Path, form: str, name: str) -> None:
    path, _ = save(tmp_path, form, {name: 3})
    says(path, f"is split into {name}, but train and test are needed")


@pytest.mark.parametrize("form", ["npz", "pt", *NESTED])
@pytest.mark.parametrize("pair", [("val", "validation"), ("train", "Training"), ("test", "TEST"), ("dev", "Valid")])
def test_two_names_of_one_split_are_refused(tmp_path: Path, form: str, pair: tuple[str, str]) -> None:
    path, held = save(tmp_path, form, dict.fromkeys(("train", "test", *pair), 3))
    says(path, *pair, f" both mean the {split_named(pair[0])} split", "rename one of them")
    assert set().union(*loaded(path, key=pair[1])) == held[pair[1]]


@pytest.mark.parametrize("form", list(NESTED))
@pytest.mark.parametrize("other", ["{}/extra.bmp", "extra/cat/0.bmp", "images/extra/0.bmp", "extra.bmp"])
def test_an_image_in_no_split_is_refused_by_name(tmp_path: Path, form: str, other: str) -> None:
    path, _ = save(tmp_path, form, {"train": 2, "Test": 2})
    place = path / other.format(NESTED[form].split("/")[0].format(label="cat", split="other"))
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(place)
    says(path, f"image {place} is in no split", "name the folders train, validation and test", "data.path")


# --- names that look like splits --------------------------------------------------------------------------------------


def pairs(like: str) -> list[tuple[str, str]]:
    """Return names of train and of a held-out split, of which one or both only look like it."""
    exact = list(itertools.product(TRAIN, (*TEST, *VALIDATION)))
    alike = [tuple(like.format(lower=n, upper=n.upper(), title=n.title()) for n in pair) for pair in exact]
    return [
        *((odd, held_out) for (odd, _), (_, held_out) in zip(alike, exact, strict=True)),
        *((train, odd) for (train, _), (_, odd) in zip(exact, alike, strict=True)),
        *((odd, other) for odd, other in alike),
    ]


@pytest.mark.parametrize("nested", list(NESTED.values())[:4])
@pytest.mark.parametrize("like", LIKE)
def test_folders_that_look_like_splits_are_never_pooled(nested: str, like: str) -> None:
    for pair in pairs(like):
        assert all(map(looks_like_split, pair))
        with pytest.raises(UsageError, match="looks like a split, but is not named train, validation or test: name"):
            split_folders(NOWHERE, [path for name in pair for path in paths(nested, name, 3)])


@pytest.mark.parametrize("form", ["npz", *list(NESTED)[:4]])
@pytest.mark.parametrize("like", LIKE)
def test_data_of_names_that_look_like_splits_are_refused(tmp_path: Path, form: str, like: str) -> None:
    for i, names in enumerate(pairs(like)[::7]):
        (tmp_path / str(i)).mkdir()
        path, held = save(tmp_path / str(i), form, dict.fromkeys(names, 3))
        if form == "npz":
            says(path, "data.key is not set", f"if {', '.join(sorted(names))} are splits, name them train, validation")
            assert set().union(*loaded(path, key=names[0])) == held[names[0]]
        else:
            says(path, "looks like a split", "name the folders train, validation and test", "as data.path")


@pytest.mark.parametrize("form", list(NESTED)[:4])
def test_a_folder_that_looks_like_a_split_is_refused_beside_any_other(tmp_path: Path, form: str) -> None:
    path, _ = save(tmp_path, form, {"other": 3, "seg_test": 3})
    says(path, "/seg_test looks like a split", "rename seg_test if it is not a split")


@pytest.mark.parametrize("form", ["npz", "pt"])
def test_arrays_that_look_like_splits_do_not_matter_beside_train_and_test(tmp_path: Path, form: str) -> None:
    path, held = save(tmp_path, form, {"Train": 10, "test": 4, "train_extra": 5, "test_labels": 5, "val_x": 5})
    found = loaded(path)
    assert found[0] | found[1] == held["Train"]
    assert found[2] == held["test"]


@pytest.mark.parametrize("form", list(NESTED)[:4])
def test_folders_that_do_not_look_like_splits_are_pooled(tmp_path: Path, form: str) -> None:
    assert not any(map(looks_like_split, NO_SPLITS))
    path, held = save(tmp_path, form, dict.fromkeys(NO_SPLITS, 2))
    found = loaded(path)
    assert set().union(*found) == set().union(*held.values())
    assert [len(some) for some in found] == [len(NO_SPLITS) * 2 - 4, 2, 2]


# --- arrays and folders of splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npz", "pt", "folder"])
@pytest.mark.parametrize("validation", VALIDATION)
def test_splits_that_a_file_has_are_taken_as_they_are(tmp_path: Path, form: str, validation: str) -> None:
    array = grey()
    splits = {"train": array[:25], validation: array[25:32], "test": array[32:]}
    path = save_splits(tmp_path, form, splits)
    data = load(path)
    for rows, exact in zip(rows_of(data), splits.values(), strict=True):
        assert torch.equal(rows.float(), torch.from_numpy(exact).float())
    assert ", 25/7/8 as the file has them; " in data.protocol
    cut = load(path, num_test=3)
    assert ", 25/7/3 as the file has them, test cut from 8 by permutation seed 0; " in cut.protocol
    assert cut.test.tolist() == array[32:][expected_ids(8, 0, 3)[2]].tolist()
    with pytest.raises(UsageError, match=r"data.num_test=9: the file's test split has 8 examples"):
        load(path, num_test=9)


def save_splits(folder: Path, form: str, splits: dict[str, np.ndarray]) -> Path:
    if form == "npz":
        np.savez(folder / "s.npz", **splits, labels=np.zeros(3))
        return folder / "s.npz"
    if form == "pt":
        torch.save({split: torch.from_numpy(rows.copy()) for split, rows in splits.items()} | {"n": 3}, folder / "s.pt")
        return folder / "s.pt"
    for split, rows in splits.items():
        (folder / "all").mkdir(exist_ok=True)
        save_images(folder, rows).rename(folder / "all" / split)
    return folder / "all"


@pytest.mark.parametrize("form", ["npz", "pt", "folder"])
def test_validation_is_taken_out_of_train_where_a_file_has_none(tmp_path: Path, form: str) -> None:
    array = grey()
    data = load(save_splits(tmp_path, form, {"train": array[:30], "test": array[30:]}))
    train, validation, _ = expected_ids(30, 3, 0)
    assert torch.equal(data.validation, torch.from_numpy(array[validation]).float())
    assert torch.equal(rows_of(data)[0], torch.from_numpy(array[train]))
    assert torch.equal(data.test, torch.from_numpy(array[30:]).float())
    assert "27/3/10 as the file has them, validation cut from train by permutation seed 0;" in data.protocol


def test_a_key_chooses_one_of_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", images=grey(), labels=np.arange(N))
    with pytest.raises(
        UsageError, match=r"data.key is not set: .*k.npz holds 2 arrays: images, labels; one array is needed"
    ):
        load(tmp_path / "k.npz")
    with pytest.raises(UsageError, match=r"data.key=image: .* has no such array; did you mean 'images'\?"):
        load(tmp_path / "k.npz", key="image")
    data = load(tmp_path / "k.npz", key="images")
    assert torch.equal(data.test, torch.from_numpy(grey()[expected_ids(N, 4, 4)[2]]).float())
    assert "key 'images'" in data.protocol
    with pytest.raises(UsageError, match=r"data.key=images: .*x.npy is one array, without a name"):
        load(save_npy(tmp_path, grey()), key="images")


def test_splits_of_other_shapes_or_kinds_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", test=grey(5, 4, 3), train=grey(5, 4, 2))
    says(tmp_path / "x.npz", "examples of test have the shape (4, 3), those of train (4, 2)")
    np.savez(tmp_path / "x.npz", test=grey(5, 4, 3), train=grey(5, 4, 3).astype(np.float32))
    says(tmp_path / "x.npz", "test holds uint8, train float32")


# --- which files are images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(NESTED))
@pytest.mark.parametrize("skipped", SKIPPED)
def test_hidden_copies_change_neither_the_splits_nor_the_sha256(tmp_path: Path, form: str, skipped: str) -> None:
    path, _ = save(tmp_path, form, SIZES)
    before, sha256 = loaded(path), Array(path=str(path)).with_content_hash(NOWHERE).sha256
    for folder in [path, *(place for place in path.rglob("*") if place.is_dir())]:
        image = next(folder.rglob("*.bmp")).read_bytes()
        for junk in (f"{skipped}/0.bmp", f"{skipped}/seg_test/0.bmp", "._0.bmp", ".train.png"):
            (folder / junk).parent.mkdir(parents=True, exist_ok=True)
            (folder / junk).write_bytes(image if junk.endswith("/0.bmp") else b"no image")
        (folder / skipped / "link").symlink_to(tmp_path)
        (folder / ".link").symlink_to(tmp_path)
    assert loaded(path) == before
    assert Array(path=str(path)).with_content_hash(NOWHERE).sha256 == sha256


def test_a_folder_of_nothing_but_hidden_images_has_no_image(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    images(tmp_path / "i" / ".cache")
    refused(tmp_path / "i", "has no image: .png")


def test_images_are_ordered_by_their_path_below_the_folder(tmp_path: Path) -> None:
    names = ["b/2.png", "a/9.png", "a-b.png", "a/10.png", "B.PNG"]
    for i, name in enumerate(names):
        (tmp_path / "i" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), i).save(tmp_path / "i" / name)
    (tmp_path / "i" / "readme.txt").write_text("no image")
    found = arrays_of(tmp_path / "i")
    assert found.names == ("B.PNG", "a-b.png", "a/10.png", "a/9.png", "b/2.png")
    assert found.read(np.arange(5))[:, 0, 0].tolist() == [4, 2, 3, 1, 0]


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = images(tmp_path / "outside", num=1)
    folder = images(tmp_path / "i")
    (folder / "12.png").symlink_to(folder / "03.png")
    assert len(load(folder).train) == 11  # thirteen examples: a link within the folder is one
    (folder / "13.png").symlink_to(outside / "00.png")
    refused_image(folder, "13.png", "is a link that leads out of")
    (folder / "13.png").unlink()
    (folder / "13.png").symlink_to(folder / "nothing.png")
    refused_image(folder, "13.png", "is not a file")
    (folder / "13.png").unlink()
    (folder / "sub").symlink_to(outside)
    refused(folder, "sub is a link to a folder")
    (tmp_path / "linked").symlink_to(tmp_path / "plain")
    images(tmp_path / "plain")
    assert len(load(tmp_path / "linked").train) == 10  # the folder itself may be a link
