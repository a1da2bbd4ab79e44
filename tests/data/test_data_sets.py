"""The real data sets, against their upstream files by other readers: sizes, means, upright, and what leaks."""

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from elbo_bench.data.access import Binarise, Dequantise
from elbo_bench.data.dataset import Dataset
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.sets.caltech101_silhouettes import Caltech101Silhouettes
from elbo_bench.data.sets.digits import Digits
from elbo_bench.data.sets.fashion_mnist import FashionMnist
from elbo_bench.data.sets.freyfaces import FreyFaces
from elbo_bench.data.sets.mnist_dynamic import MnistDynamic
from elbo_bench.data.sets.mnist_static import MnistStatic
from elbo_bench.data.sets.mnist_threshold import MnistThreshold
from elbo_bench.data.sets.omniglot_burda import OmniglotBurda
from elbo_bench.data.sets.omniglot_lake28 import OmniglotLake28
from elbo_bench.noise import Noise

NOWHERE = Path("no-files-needed")
# Two-sided P = 7e-8 for a standard normal; the draws are fixed, so this is the risk at the time of writing.
MAX_Z = 5.4


@pytest.fixture(scope="module")
def root() -> Path:
    folder = os.environ.get("ELBO_BENCH_DATA")
    if not folder:
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    return Path(folder)


def images_of(place: Path) -> np.ndarray:
    """The images of an IDX file, by another reader."""
    import gzip

    return np.frombuffer(gzip.decompress(place.read_bytes())[16:], np.uint8).reshape(-1, 28, 28)


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.validation), len(dataset.test)


def z_of(observed: Tensor, probability: Tensor) -> float:
    exact = probability.double()
    return float((observed.double() - exact).sum() / (exact * (1 - exact)).sum().sqrt())


# --- MNIST and Fashion-MNIST ------------------------------------------------------------------------------------------


def test_threshold_mnist_is_the_grey_files_cut_at_a_half(root: Path) -> None:
    dataset = MnistThreshold().load(root)
    train = images_of(root / "mnist/train-images-idx3-ubyte.gz")
    test = images_of(root / "mnist/t10k-images-idx3-ubyte.gz")
    assert sizes(dataset) == (59_600, 400, 10_000)
    assert np.array_equal(dataset.train, train[:59_600] >= 128)
    assert np.array_equal(dataset.validation, train[59_600:] >= 128)
    assert np.array_equal(dataset.test, test / 255 > 0.5)
    assert dataset.num_levels == 2
    assert dataset.protocol.endswith("a pixel is 1 where grey > 127")


def test_fashion_mnist_has_the_means_of_its_files_in_every_protocol(root: Path) -> None:
    train = images_of(root / "fashion_mnist/train-images-idx3-ubyte.gz")
    test = images_of(root / "fashion_mnist/t10k-images-idx3-ubyte.gz")
    assert abs(train.mean() / 255 - 0.28604) < 5e-6
    assert abs(test.mean() / 255 - 0.28685) < 5e-6
    found = {values: FashionMnist(values=values).load(root) for values in ("dynamic", "fixed", "threshold", "levels")}  # type: ignore[arg-type]
    for dataset in found.values():
        assert sizes(dataset) == (59_600, 400, 10_000)
    assert np.array_equal(found["levels"].train, train[:59_600])
    assert np.array_equal(found["levels"].test, test)
    assert found["levels"].num_levels == 256
    assert np.array_equal(found["dynamic"].train, train[:59_600])
    assert np.array_equal(found["threshold"].test, test > 127)
    probability = torch.from_numpy(test / 255)
    assert abs(z_of(found["dynamic"].test, probability)) < MAX_Z
    assert torch.equal(found["dynamic"].test, found["fixed"].test)
    assert abs(z_of(found["fixed"].train, torch.from_numpy(train[:59_600] / 255))) < MAX_Z
    assert len({dataset.protocol for dataset in found.values()}) == 4


@pytest.mark.parametrize("num_validation", [1, 10_000])
def test_validation_is_the_end_of_the_training_file(root: Path, num_validation: int) -> None:
    dataset = FashionMnist(values="levels", num_validation=num_validation).load(root)
    train = images_of(root / "fashion_mnist/train-images-idx3-ubyte.gz")
    assert np.array_equal(dataset.validation, train[60_000 - num_validation :])
    assert np.array_equal(dataset.train, train[: 60_000 - num_validation])
    assert dataset.protocol.startswith(f"{60_000 - num_validation}/{num_validation}/10000")


def test_continuous_fashion_is_drawn_anew_for_training_and_once_for_scoring(root: Path) -> None:
    source = FashionMnist(values="dequantised", num_validation=400)
    first, again = source.load(root), source.load(root)
    test = images_of(root / "fashion_mnist/t10k-images-idx3-ubyte.gz")
    assert torch.equal(first.test, again.test)
    position = first.test.double() * 256 - torch.from_numpy(test.astype("f8"))
    assert float(position.min()) >= -1e-4
    assert float(position.max()) <= 1 + 1e-4
    assert abs(float(position.mean()) - 0.5) < MAX_Z * (1 / 12 / position.numel()) ** 0.5
    rows = first.train[torch.arange(50)]
    one, other = (first.access(rows, Noise(0, "binarize", position)) for position in (0, 1))
    assert not torch.equal(one, other)
    assert source.observation == first.observation == "continuous"
    assert first.bounds == (0.0, 1.0)


# --- how test observations are binarised ------------------------------------------------------------------------------


def test_a_resampled_test_split_is_drawn_with_the_seed_of_an_evaluation() -> None:
    fixed, resampled = Digits().load(NOWHERE), Digits(test_binarization="resample").load(NOWHERE)
    assert torch.equal(fixed.observations("test", seed=0)[0], fixed.observations("test", seed=1)[0])
    zero, one = (resampled.observations("test", seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(zero, one)
    assert torch.equal(zero, resampled.observations("test", seed=0)[0])
    for drawn in (zero, one):
        assert abs(z_of(drawn, resampled.test)) < MAX_Z
    # Two independent draws of a pixel differ with probability 2 p (1 - p).
    probability = resampled.test.double()
    assert abs(z_of((zero != one).float(), 2 * probability * (1 - probability))) < MAX_Z
    assert fixed.record()["protocol"] != resampled.record()["protocol"]
    assert fixed.record()["test_sha256"] != resampled.record()["test_sha256"]
    assert (fixed.record()["test_binarization"], resampled.record()["test_binarization"]) == ("fixed", "resample")


def test_what_is_not_drawn_cannot_be_resampled() -> None:
    for values in ("threshold", "levels", "fixed", "dequantised", "logit"):
        with pytest.raises(ValueError, match=f"test_binarization=resample: values={values} draws nothing at an access"):
            Digits(values=values, test_binarization="resample")  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, float("nan")])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="logit_alpha"):
        Digits(values="logit", logit_alpha=alpha)


# --- digits in every protocol -----------------------------------------------------------------------------------------


def test_digits_in_levels_are_the_scans() -> None:
    from sklearn.datasets import load_digits

    order = Noise(seed=0, purpose="digits/split").permutation(1797)
    grey = torch.from_numpy(load_digits().images.astype("u1"))[order]
    levels = Digits(values="levels").load(NOWHERE)
    assert torch.equal(levels.train, grey[:1297])
    assert torch.equal(levels.test, grey[1547:].float())
    assert levels.num_levels == 17
    assert torch.equal(Digits(values="threshold").load(NOWHERE).validation, (grey[1297:1547] > 8).float())
    continuous = Digits(values="dequantised").load(NOWHERE)
    assert continuous.access == Dequantise(17)
    assert torch.equal((continuous.test.double() * 17).floor(), grey[1547:].double())
    logit = Digits(values="logit", logit_alpha=0.05).load(NOWHERE)
    assert logit.access == Dequantise(17, 0.05)
    assert float(logit.test.abs().max()) <= float(np.log(0.95 / 0.05)) + 1e-6


# --- Caltech 101 ------------------------------------------------------------------------------------------------------


def test_silhouettes_are_the_published_split_and_upright(root: Path) -> None:
    dataset = Caltech101Silhouettes().load(root)
    assert sizes(dataset) == (4100, 2264, 2307)
    found = [float(split.double().mean()) for split in (dataset.train, dataset.validation, dataset.test)]
    assert np.allclose(found, [0.5511, 0.5360, 0.5390], atol=5e-5)
    arrays = scipy.io.loadmat(root / Caltech101Silhouettes.files[0].path)
    for name, split in (("train_data", dataset.train), ("val_data", dataset.validation), ("test_data", dataset.test)):
        expected = np.stack([row.reshape(28, 28, order="F") for row in arrays[name]])
        assert np.array_equal(split, expected)
    # The published whole, in the same order of pixels, holds the same images.
    whole = scipy.io.loadmat(root / "caltech101_silhouettes/caltech101_silhouettes_28.mat")["X"]
    everything = torch.cat([dataset.train.float(), dataset.validation, dataset.test]).mT.reshape(-1, 784).byte().numpy()
    assert sorted(map(bytes, everything)) == sorted(map(bytes, whole.astype("u1")))
    distinct = [
        {bytes(row) for row in split.numpy().astype("u1").reshape(-1, 784)}
        for split in vars(dataset).values()
        if isinstance(split, Tensor)
    ]
    train, validation, test = distinct
    assert (len(train & validation), len(train & test), len(validation & test)) == (3, 4, 2)
    # Upright: the object, which is 0, stands on the ground rather than on a wall.
    below, above = (1 - dataset.train.double()).mean(0)[-6:].mean(), (1 - dataset.train.double()).mean(0)[:6].mean()
    assert below > above


# --- Frey faces -------------------------------------------------------------------------------------------------------


def test_frey_faces_are_upright_and_split_in_time_with_frames_between(root: Path) -> None:
    dataset = FreyFaces().load(root)
    columns = scipy.io.loadmat(root / FreyFaces.files[0].path)["ff"]
    frames = columns.T.reshape(1965, 28, 20)
    assert abs(columns.mean() - 154.46) < 5e-3
    assert (columns.min(), columns.max()) == (8, 238)
    assert sizes(dataset) == (1505, 200, 200)
    assert np.array_equal(dataset.train, frames[:1505])
    assert np.array_equal(dataset.validation, frames[1535:1735])
    assert np.array_equal(dataset.test, frames[1765:])
    assert dataset.num_levels == 256


def test_no_test_frame_has_a_near_copy_among_the_training_frames(root: Path) -> None:
    """Compared with a random split of the same sizes, which is what leaks."""
    dataset = FreyFaces().load(root)
    frames = torch.from_numpy(scipy.io.loadmat(root / FreyFaces.files[0].path)["ff"].T.astype("f8"))
    order = Noise(0, "leak").permutation(1965)

    def nearest(test: Tensor, train: Tensor) -> float:
        return float(torch.cdist(test, train).min(1).values.mean() / 560**0.5)

    ours = nearest(dataset.test.double().flatten(1), dataset.train.double().flatten(1))
    random = nearest(frames[order[-200:]], frames[order[:1505]])
    assert random < 13
    assert ours > 21
    # Across a gap frames are nearly as different as any two; neighbours are half as different.
    apart = {lag: float((frames[lag:] - frames[:-lag]).square().mean(1).sqrt().mean()) for lag in (1, 30, 300)}
    assert apart[1] < 0.55 * apart[300]
    assert apart[30] > 0.8 * apart[300]


# --- OMNIGLOT ---------------------------------------------------------------------------------------------------------


def test_lake28_is_the_ink_of_each_small_pixel(root: Path) -> None:
    """Against areas of overlap, pixel by pixel, on some drawings."""
    dataset = OmniglotLake28(values="levels").load(root)
    assert sizes(dataset) == (868 * 20, 96 * 20, 659 * 20)
    with np.load(root / "omniglot/images_background.npz", allow_pickle=False) as arrays:
        background = arrays["images"].reshape(-1, 105, 105)
    with np.load(root / "omniglot/images_evaluation.npz", allow_pickle=False) as arrays:
        evaluation = arrays["images"].reshape(-1, 105, 105)
    edges = np.arange(29) * 3.75
    overlap = np.clip(
        np.minimum(edges[1:, None], np.arange(1, 106)) - np.maximum(edges[:-1, None], np.arange(105)), 0, 1
    )

    def small(paper: np.ndarray) -> np.ndarray:
        return overlap @ (1.0 - paper) @ overlap.T / 3.75**2 * 225

    for split, upstream in (
        (dataset.train, background[:17_360]),
        (dataset.validation, background[17_360:]),
        (dataset.test, evaluation),
    ):
        for number in (0, 1, 777, len(split) - 1):
            np.testing.assert_allclose(split[number].numpy(), small(upstream[number]), atol=1e-9)
        # No ink is lost: 105 x 105 pixels of ink are 28 x 28 x 225 parts.
        ink = (~upstream).sum(dtype=np.int64) / (105 * 105)
        assert abs(float(split.double().sum()) / (28 * 28 * 225) - ink) < 1e-6 * ink
    assert dataset.num_levels == 226
    assert "not Burda's OMNIGLOT" in dataset.protocol
    assert dataset.info.shape == (28, 28)


def chardata(**changes: np.ndarray) -> bytes:
    """A file of the layout of `chardata.mat`: a drawing in each column, its pixels column by column."""
    import io

    rng = np.random.default_rng(0)
    arrays = {
        "data": rng.random((784, 24_345), dtype=np.float32),
        "testdata": rng.random((784, 8_070), dtype=np.float32),
        "target": np.zeros((50, 3)),
        "targetchar": np.zeros((1, 3)),
    } | changes
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


@pytest.fixture(scope="module")
def made() -> bytes:
    return chardata()


def test_burda_s_omniglot_is_read_upright_with_the_authors_validation_split(
    made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> bytes:
        return made  # as if git's name for it were the official one

    monkeypatch.setattr(DataFile, "read", read)
    source = OmniglotBurda()
    dataset = source.load(Path("somewhere"))
    assert sizes(dataset) == (23_000, 1_345, 8_070)
    rng = np.random.default_rng(0)
    whole, test = rng.random((784, 24_345), dtype=np.float32), rng.random((784, 8_070), dtype=np.float32)
    order = np.random.RandomState(123).permutation(24_345)
    for number in (0, 1, 22_999):
        assert np.array_equal(dataset.train[number], whole[:, order[number]].reshape(28, 28, order="F"))
    kept = torch.from_numpy(whole.T[order[23_000:]].reshape(-1, 28, 28)).mT
    assert abs(z_of(dataset.validation, kept)) < MAX_Z
    assert abs(z_of(dataset.test, torch.from_numpy(test.T.reshape(-1, 28, 28)).mT)) < MAX_Z
    assert set(dataset.test.unique().tolist()) == {0.0, 1.0}
    assert isinstance(dataset.access, Binarise)
    assert dataset.protocol.startswith("23000/1345/8070, ")
    assert len(dataset.record()["files_sha256"]["omniglot/chardata.mat"]) == 64
    resampled = OmniglotBurda(test_binarization="resample").load(Path("somewhere"))
    assert np.array_equal(resampled.test[5], test[:, 5].reshape(28, 28, order="F"))
    fixed = OmniglotBurda(values="threshold").load(Path("somewhere"))
    assert np.array_equal(fixed.test[5], test[:, 5].reshape(28, 28, order="F") > 0.5)


# --- what is never the first rows -------------------------------------------------------------------------------------


def test_cheap_validation_on_sorted_data_sees_every_class(root: Path) -> None:
    """Static MNIST's test images are sorted by class: its first 500 are zeros."""
    dataset = MnistStatic().load(root)
    _, ids = dataset.observations("test", 500)
    sizes_of_classes = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    ends = np.cumsum(sizes_of_classes)
    counts = np.bincount(np.searchsorted(ends, ids.numpy(), side="right"), minlength=10)
    expected = np.array(sizes_of_classes) / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 60  # nine degrees of freedom, P = 1e-9; the first 500 rows would give 4,600
    shown = MnistDynamic().load(root).observations("test", 500)[1]
    assert not torch.equal(shown, torch.arange(500))
