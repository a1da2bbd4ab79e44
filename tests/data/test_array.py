"""The user's own array: every format gives NumPy's values, splits lose nothing, and a file is as good as memory."""

import dataclasses
import itertools
import pickle
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.arrays import (
    NOWHERE,
    N,
    expected_ids,
    grey,
    load,
    rows_of,
    save_images,
    save_npy,
    save_npz,
    save_pt,
)

from elbo_bench.data.access import Binarise
from elbo_bench.data.batches import Batch, TrainingBatches
from elbo_bench.data.dataset import Dataset, tensor_sha256
from elbo_bench.data.own.array import Array
from elbo_bench.data.own.array_examples import ArrayExamples, ValueCheck
from elbo_bench.data.own.array_files import FileArray
from elbo_bench.data.own.array_splits import Splitter
from elbo_bench.errors import RunFailedError, UsageError


def floats(num: int = N) -> np.ndarray:
    values = np.random.default_rng(1).random((num, 5), dtype=np.float32)
    values[:, 0] = (np.arange(num) + 0.5) / num
    return values


SAVED: list[Callable[[Path, np.ndarray], Path]] = [save_npy, save_npz, save_pt, save_images]
LAZY = [save_npy, save_pt, save_images]


# --- values and splits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("save", "in_memory"), [*((save, True) for save in SAVED), *((save, False) for save in LAZY)])
@pytest.mark.parametrize("shape", [(4, 3), (3, 5, 4)])
def test_every_format_gives_the_values_that_numpy_made(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path], shape: tuple[int, ...], in_memory: bool
) -> None:
    array = grey(N, *shape)
    data = load(save(tmp_path, array), in_memory=in_memory)
    assert data.num_levels == 256
    for split, ids in zip(rows_of(data), expected_ids(N, 4, 4), strict=True):
        assert torch.equal(split.float(), torch.from_numpy(array[ids]).float())
    assert data.protocol.startswith("the user's array sha256 ")
    assert data.protocol.endswith(", 32/4/4 by permutation seed 0; levels 0..255")
    exact = torch.from_numpy(array[expected_ids(N, 4, 4)[0]]).double().mean(0)
    assert torch.allclose(data.info.train_mean.double(), exact, atol=1e-4, rtol=0)
    assert isinstance(data.train, torch.Tensor) == in_memory


@pytest.mark.parametrize("save", LAZY)
@pytest.mark.parametrize("values", ["levels", "dynamic", "dequantised", "logit"])
def test_reading_while_training_changes_no_bit(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path], values: str
) -> None:
    path = save(tmp_path, grey())
    memory, lazy = (load(path, values=values, in_memory=in_memory) for in_memory in (True, False))
    assert memory.record() == lazy.record()
    assert torch.equal(memory.info.train_mean, lazy.info.train_mean)
    assert memory.info.scale == lazy.info.scale
    assert_same(batches_of(memory), batches_of(lazy))
    for rank in range(2):
        of_rank = {"rank": rank, "world_size": 2}
        assert_same(batches_of(memory, **of_rank), batches_of(lazy, **of_rank))


def batches_of(data: Dataset, epochs: int = 2, **options: Any) -> list[Batch]:
    batches = TrainingBatches(data.train, batch_size=7, shuffle=True, access=data.access, seed=3, **options)
    found = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        found += list(batches)
    return found


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert [batch.position for batch in left] == [batch.position for batch in right]
    assert all(torch.equal(a.x, b.x) for a, b in zip(left, right, strict=True))
    assert left


def test_processes_that_read_ahead_change_no_bit_nor_does_a_stop_between(tmp_path: Path) -> None:
    # Real processes take seconds to start: one test for all three formats would take three times as long.
    path = save_images(tmp_path, grey())
    whole = batches_of(load(path, values="dynamic"))
    lazy = load(path, values="dynamic", in_memory=False)
    assert_same(whole, batches_of(lazy, workers=2))
    options: dict[str, Any] = {"batch_size": 7, "shuffle": True, "access": lazy.access, "seed": 3}
    for workers in (0, 2):
        first = TrainingBatches(lazy.train, **options, workers=workers)
        begun = list(itertools.islice(first, 3))
        again = TrainingBatches(lazy.train, **options)
        again.load_state_dict(first.state_dict())
        assert_same(whole[: len(whole) // 2], begun + list(again))


@pytest.mark.parametrize("save", LAZY)
def test_a_copy_for_another_process_has_the_name_of_a_file_and_not_its_content(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path]
) -> None:
    train = load(save(tmp_path, grey(N, 64, 64)), in_memory=False).train
    copy = pickle.loads(pickle.dumps(train))
    assert len(pickle.dumps(train)) < 5000  # of the 160,000 bytes; most are the images' names
    assert torch.equal(copy[torch.tensor([3, 0])], train[torch.tensor([3, 0])])


@pytest.mark.parametrize(("num_validation", "num_test"), [(None, None), (1, 1), (7, 3), (20, 19)])
@pytest.mark.parametrize("seed", [0, 5])
def test_splits_share_out_every_example_once(num_validation: int | None, num_test: int | None, seed: int) -> None:
    parts, words = Splitter(num_validation, num_test, seed)({"": N})
    ids = [parts[split][1] for split in ("train", "validation", "test")]
    assert torch.equal(torch.cat(ids).sort().values, torch.arange(N))
    sizes = (num_validation or 4, num_test or 4)
    assert [len(some) for some in ids] == [N - sum(sizes), *sizes]
    for some, exact in zip(ids, expected_ids(N, *sizes, seed=seed), strict=True):
        assert some.tolist() == exact.tolist()
    assert words == f"{N - sum(sizes)}/{sizes[0]}/{sizes[1]} by permutation seed {seed}"


def test_a_tenth_is_held_out_and_at_most_ten_thousand() -> None:
    for total, held_out in ((3, 1), (19, 1), (20, 2), (99_999, 9_999), (1_000_000, 10_000)):
        parts, _ = Splitter(None, None, 0)({"": total})
        assert [len(parts[split][1]) for split in ("validation", "test")] == [held_out] * 2


def test_more_validation_examples_leave_the_test_split_as_it_is() -> None:
    few, many = (Splitter(size, 5, 0)({"": N})[0]["test"][1] for size in (3, 20))
    assert torch.equal(few, many)


@pytest.mark.parametrize(("num_validation", "num_test", "total"), [(20, 20, N), (None, N, N), (None, None, 2)])
def test_a_split_without_an_example_is_refused(num_validation: int | None, num_test: int | None, total: int) -> None:
    with pytest.raises(UsageError, match=f"no training example is left of {total} examples"):
        Splitter(num_validation, num_test, 0)({"": total})


# --- what values are taken for ----------------------------------------------------------------------------------------


def test_zeros_and_ones_are_taken_as_they_are(tmp_path: Path) -> None:
    binary = grey() % 2
    _, validation, test = expected_ids(N, 4, 4)
    for dtype in (bool, np.uint8, np.int64, np.float64):
        data = load(save_npy(tmp_path, binary.astype(dtype)), values="binary")
        assert (data.num_levels, data.values, rows_of(data)[0].dtype) == (2, "binary", torch.uint8)
        assert torch.equal(data.validation, torch.from_numpy(binary[validation]).float())
        assert data.test_sha256 == tensor_sha256(torch.from_numpy(binary[test]))


def test_floating_point_numbers_are_taken_as_they_are_in_float32(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(N, 5)) * 100
    for dtype in (np.float16, np.float32, np.float64, ">f4", np.longdouble):
        data = load(save_npy(tmp_path, array.astype(dtype)), values="continuous")
        assert data.observation == "continuous"
        exact = array.astype(dtype).astype(np.float32)[expected_ids(N, 4, 4)[2]]
        assert np.array_equal(data.test.numpy(), exact)


def test_grey_in_floating_point_is_a_probability(tmp_path: Path) -> None:
    data = load(save_npy(tmp_path, floats()), values="threshold")
    assert torch.equal(data.test, torch.from_numpy(floats()[expected_ids(N, 4, 4)[2]] > 0.5).float())
    dynamic = load(tmp_path / "x.npy", values="dynamic", in_memory=False)
    assert torch.equal(rows_of(dynamic)[0], torch.from_numpy(floats()[expected_ids(N, 4, 4)[0]]))
    assert "a pixel is 1 with probability grey:" in dynamic.protocol
    # 40 epochs of 32 x 5 draws; two-sided P = 6e-7.
    drawn = torch.cat([batch.x for batch in batches_of(dynamic, 40)]).double().sum()
    probability = rows_of(dynamic)[0].double()
    spread = (40 * probability * (1 - probability)).sum().sqrt()
    assert abs(drawn - 40 * probability.sum()) < 5 * spread


def test_the_last_level_is_the_grey_value_that_is_surely_ink(tmp_path: Path) -> None:
    array = grey() % 17
    path = save_npy(tmp_path, array)
    data = load(path, values="dynamic", num_levels=17)
    assert data.access == Binarise(16)
    ink = torch.from_numpy(array[expected_ids(N, 4, 4)[0]] == 16)
    assert ink.any()
    batches = TrainingBatches(data.train, batch_size=N, shuffle=False, access=data.access, seed=0)
    assert next(iter(batches)).x[ink].all()
    assert load(path, values="levels", num_levels=17).num_levels == 17
    assert load(path, values="threshold", num_levels=17).test.tolist() == (
        (array[expected_ids(N, 4, 4)[2]] > 8).astype(float).tolist()
    )


@pytest.mark.parametrize(
    ("array", "fields", "words"),
    [
        (floats(), {"values": "levels"}, r"x.npy, example \d+ holds 0\.\d+, but values=levels takes integers 0..255"),
        (grey(), {"values": "binary"}, r"x.npy, example \d+ holds \d+, but values=binary takes integers 0..1"),
        (grey(), {"num_levels": 17}, r"x.npy, example \d+ holds \d+, but values=levels takes integers 0..16"),
        (grey().astype(np.int16) - 1, {}, r"x.npy, example 0 holds -1, but values=levels"),
        (grey().astype(np.int64) + 2**40, {}, r"x.npy, example \d+ holds 10995116\d+, but values=levels"),
        (
            floats() * 255,
            {"values": "dynamic"},
            r"example \d+ holds .*, but values=dynamic takes floating-point .*\[0, 1\]",
        ),
        (np.where(floats() > 0.9, np.nan, floats()), {"values": "continuous"}, r"holds nan, but values=continuous"),
        (np.where(floats() > 0.9, np.nan, floats()), {"values": "dynamic"}, r"holds nan, but values=dynamic"),
        (np.where(floats() > 0.9, np.nan, 1.0), {"values": "binary"}, r"holds nan, but values=binary"),
        (
            floats().astype(np.float64) * 1e300,
            {"values": "continuous"},
            r"e\+.*takes numbers that are finite in float32",
        ),
        (grey() % 2, {"values": "dynamic"}, r"holds only zeros and ones, but white is 255: take values=binary"),
        (grey().astype(np.float32), {"values": "continuous"}, r"holds integers, which have no density"),
        (
            grey(),
            {"values": "continuous"},
            r"data.values=continuous: .*x.npy holds uint8 values 0..255; suitable: levels, ",
        ),
    ],
)
@pytest.mark.parametrize("in_memory", [True, False])
def test_values_that_are_not_what_they_are_said_to_be_are_refused_by_name(
    tmp_path: Path, array: np.ndarray, fields: dict[str, Any], words: str, in_memory: bool
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load(save_npy(tmp_path, array), in_memory=in_memory, **fields)
    assert "x.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "holds"),
    [
        (grey(), "uint8 values 0..255; suitable: levels, dequantised, logit, dynamic, fixed, threshold"),
        (grey() % 2 == 1, "bool values 0..1; suitable: binary"),
        ((grey() % 2).astype(float), "float64 values 0..1, all integers; suitable: binary"),
        (grey().astype(np.float32), "float32 values 0..255, all integers; suitable: levels, dequantised, logit"),
        (np.float32([[0.25, 1]] * N), "float32 values 0.25..1; suitable: continuous, dynamic, fixed, threshold"),
        (np.float64([[-2.5, 1]] * N), "float64 values -2.5..1; suitable: continuous"),
        (np.float64([[np.nan, 1]] * N), "float64 values nan..nan: NaN and infinite values are not supported"),
        (
            np.int32([[0, 256]] * N),
            "int32 values 0..256: scale them to 0..255 for levels, or add noise and take continuous",
        ),
    ],
)
def test_values_that_are_not_set_are_asked_for_by_what_the_file_holds(
    tmp_path: Path, array: np.ndarray, holds: str
) -> None:
    path = save_npy(tmp_path, array)
    with pytest.raises(UsageError) as caught:
        load(path, values=None)
    assert str(caught.value) == f"data.values is not set: {path} holds {holds}"


# --- identity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVED)
def test_data_are_known_by_their_content_and_not_by_their_path(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path]
) -> None:
    path = save(tmp_path, grey())
    elsewhere = tmp_path / "elsewhere" / path.name
    elsewhere.parent.mkdir()
    pinned = Array(path=str(path), values="levels").with_content_hash(NOWHERE)
    assert pinned == Array(path=str(path), values="levels", sha256=pinned.sha256)
    data = pinned.load(NOWHERE)
    assert data.files == {"array": pinned.sha256}
    assert f"sha256 {str(pinned.sha256)[:16]}," in data.protocol
    assert f"sha256 {str(pinned.sha256)[:16]}," in pinned.protocol
    assert str(tmp_path) not in str(data.record())
    path.rename(elsewhere)
    moved = dataclasses.replace(pinned, path=str(elsewhere))
    assert moved.with_content_hash(NOWHERE).sha256 == pinned.sha256
    assert moved.load(NOWHERE).record() == data.record()
    other = grey()
    other[-1, -1, -1] ^= 1
    changed = save(tmp_path, other)
    for use in (pinned.load, pinned.with_content_hash):
        with pytest.raises(UsageError, match=f"{changed.name} is not the file that data.sha256 names: sha256"):
            use(NOWHERE)


# --- files that are larger than memory, and that break on the way -----------------------------------------------------


def test_rows_of_a_file_of_four_gigabytes_are_read_without_the_others(tmp_path: Path) -> None:
    num, dim, path = 2**20, 4096, tmp_path / "large.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (num, dim)})
        start = file.tell()
        file.truncate(start + num * dim)  # a hole: no byte of it is on the disk
        file.seek(start + (num - 1) * dim)
        file.write(bytes([7]) * dim)
    rows = ArrayExamples(FileArray(path), torch.arange(num), ValueCheck("levels", "integer", 255))
    tracemalloc.start()
    began = time.monotonic()
    ten = rows[torch.tensor([num - 1, *range(9)])]
    seconds = time.monotonic() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ten.sum(1).tolist() == [7 * dim] + [0] * 9
    assert peak < 2_000_000
    assert seconds < 1


@pytest.mark.parametrize("readers", [0, 2])
def test_an_image_that_breaks_while_training_ends_the_run_and_is_named(tmp_path: Path, readers: int) -> None:
    folder = save_images(tmp_path, grey())
    data = load(folder, in_memory=False)
    broken = folder / f"{int(expected_ids(N, 4, 4)[0][5]):04d}.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(RunFailedError, match=f"^image .*{broken.name} cannot be read") as caught:
        batches_of(data, workers=readers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [save_npy, save_pt])
def test_a_file_that_changes_while_training_ends_the_run(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path]
) -> None:
    path = save(tmp_path, grey(N, 64, 64))
    data = load(path, in_memory=False)
    rows = data.train[torch.arange(3)]
    assert rows.shape == (3, 64, 64)
    with path.open("r+b") as file:
        file.truncate(1000)  # what a map of it promises is gone, and to touch it would kill the process
    with pytest.raises(RunFailedError, match=f"{path.name} has changed since it was opened"):
        _ = data.train[torch.arange(3)]


@pytest.mark.parametrize("save", [save_npy, save_pt])
def test_a_file_that_is_read_while_training_is_mapped_and_not_loaded(
    tmp_path: Path, save: Callable[[Path, np.ndarray], Path]
) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what a process has mapped")
    path = save(tmp_path, grey(N, 64, 64))
    train = load(path, in_memory=False).train
    _ = train[torch.arange(3)]
    assert str(path) in maps.read_text()
