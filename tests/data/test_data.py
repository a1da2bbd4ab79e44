"""The data sets: their values, their splits, and that every run is scored on the same test tensor."""

import dataclasses
import gzip
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from elbo_bench.config.catalogue import Catalogue
from elbo_bench.data.access import AsIs, Binarise, Dequantise
from elbo_bench.data.batches import TrainingBatches
from elbo_bench.data.dataset import Dataset, DataSource, tensor_sha256
from elbo_bench.data.own.array import Array
from elbo_bench.data.sets.digits import Digits
from elbo_bench.data.sets.linear_gaussian_data import LinearGaussianData
from elbo_bench.data.sets.mnist_dynamic import MnistDynamic
from elbo_bench.data.sets.mnist_static import MnistStatic
from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.noise import Noise

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"
# Whatever has a YAML is tested: a data set that is added needs no edit here.
SOURCES: list[type[DataSource]] = [Catalogue.of().target("data", place.stem) for place in sorted(CONF.glob("*.yaml"))]


# Two-sided P = 7e-8 for a standard normal; the draws are fixed, so this is the risk at the time of writing.
MAX_Z = 5.4


@pytest.fixture(scope="module")
def root() -> Path:
    folder = os.environ.get("ELBO_BENCH_DATA")
    if not folder:
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    return Path(folder)


def root_for(source: type[DataSource], request: pytest.FixtureRequest) -> Path:
    if not source.files:
        return Path("no-files-needed")
    root: Path = request.getfixturevalue("root")
    for file in source.files:
        if not file.path_in(root).is_file():
            pytest.skip(f"{file.path} is not below ELBO_BENCH_DATA")
    return root


def keys_for(source: type[DataSource], folder: Path) -> dict[str, Any]:
    """Return the keys without which a source has no data: those of a user's own file."""
    if source is not Array:
        return {}
    np.save(folder / "own.npy", np.random.default_rng(0).random((50, 3, 4)))
    return {"path": str(folder / "own.npy"), "values": "continuous"}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Digits().load(Path("no-files-needed"))


@pytest.fixture(scope="module")
def mnist_dynamic(root: Path) -> Dataset:
    return MnistDynamic().load(root)


@pytest.fixture(scope="module")
def mnist_static(root: Path) -> Dataset:
    return MnistStatic().load(root)


def grey_mnist(root: Path, name: str) -> torch.Tensor:
    """Grey values in [0, 1] by another reader."""
    raw = gzip.decompress((root / "mnist" / name).read_bytes())
    return torch.tensor(np.frombuffer(raw[16:], np.uint8).reshape(-1, 28, 28).astype(np.float64) / 255)


def z_of(observed: torch.Tensor, probability: torch.Tensor) -> float:
    exact = probability.double()
    return float((observed.double() - exact).sum() / (exact * (1 - exact)).sum().sqrt())


# --- every data set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_every_run_is_scored_on_the_same_test_tensor(
    source: type[DataSource], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place, keys = root_for(source, request), keys_for(source, tmp_path)
    assert "seed" not in {field.name for field in dataclasses.fields(source)}
    first = source(**keys).load(place)
    expected = first.test.numpy().astype("<f4").tobytes()
    found = hashlib.sha256(expected).hexdigest()
    assert keys or found == source.test_sha256[first.values]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what is put to the test
    random.seed(99)
    again = source(batch_size=7, shuffle=False, **keys).load(place)
    assert again.record() == first.record()
    assert first.record()["test_sha256"] == found
    assert torch.equal(again.validation, first.validation)
    assert torch.equal(again.train, first.train)


@pytest.mark.parametrize("source", SOURCES)
def test_yaml_lists_every_field_with_its_default(source: type[DataSource]) -> None:
    name = source.__module__.rpartition(".")[2]
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(written, dict)
    assert written.pop("target") == f"{source.__module__}:{source.__qualname__}"
    assert written == {field.name: field.default for field in dataclasses.fields(source)}


@pytest.mark.parametrize("source", SOURCES)
def test_a_data_set_says_where_it_comes_from(source: type[DataSource]) -> None:
    for text in (source().protocol, source.licence, source.citation):
        assert text.strip()
        assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "values"),
    [
        (MnistDynamic, {"num_validation": 0}),
        (MnistDynamic, {"num_validation": 10_001}),
        (Digits, {"batch_size": 0}),
        (LinearGaussianData, {"noise_std": 0.0}),
        (LinearGaussianData, {"noise_std": float("nan")}),
        (LinearGaussianData, {"noise_std": float("inf")}),
        (LinearGaussianData, {"latent_dim": 0}),
        (LinearGaussianData, {"data_seed": -1}),
    ],
)
def test_values_out_of_range_are_refused(source: type[DataSource], values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        source(**values)


def dataset(**given: Any) -> Dataset:
    """A data set of ones, but for what is given."""
    splits = {name: torch.ones(2000, 3) for name in ("train", "validation", "test")}
    return Dataset(**({"name": "spoilt", "protocol": "-", "values": "-", "num_levels": 2} | splits | given))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.5, 2.0, -1.0, 1e-6])
@pytest.mark.parametrize("drawn", [False, True])
def test_a_value_that_is_no_observation_is_found_wherever_it_stands(drawn: bool, value: float, split: str) -> None:
    values = torch.ones(2000, 3)
    values[1999, 2] = value
    given: dict[str, Any] = {split: values, "access": Binarise() if drawn else AsIs()}
    if drawn and split == "train" and 0 <= value <= 1:
        assert dataset(**given).record()["splits"] == {"train": 2000, "validation": 2000, "test": 2000}
    else:
        with pytest.raises(RunFailedError, match=rf"^data spoilt: the {split} split "):
            dataset(**given)


@pytest.mark.parametrize("top", [1, 16, 225])
def test_a_grey_byte_above_the_top_is_found(top: int) -> None:
    grey = torch.full((2000, 3), top, dtype=torch.uint8)
    dataset(train=grey, access=Binarise(top))
    grey[1234, 1] += 1
    with pytest.raises(RunFailedError, match=rf"^data spoilt: the train split holds a grey value outside \[0, {top}\]"):
        dataset(train=grey, access=Binarise(top))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_continuous_value_that_is_not_finite_is_found(value: float) -> None:
    spoilt = torch.linspace(-9, 9, 6000).view(2000, 3)
    dataset(num_levels=None, train=spoilt)
    spoilt[1000, 1] = value
    with pytest.raises(RunFailedError, match=r"^data spoilt: the train split holds a value that is not finite$"):
        dataset(num_levels=None, train=spoilt)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6])
def test_a_continuous_value_out_of_bounds_is_found(value: float, split: str) -> None:
    spoilt = torch.linspace(0, 1, 6000).view(2000, 3)
    dataset(num_levels=None, bounds=(0.0, 1.0), **{split: spoilt})
    spoilt[7, 2] = value
    with pytest.raises(RunFailedError, match=rf"^data spoilt: the {split} split holds a value outside \[0, 1\]$"):
        dataset(num_levels=None, bounds=(0.0, 1.0), **{split: spoilt})


def test_a_part_of_a_split_is_the_head_of_a_fixed_order_and_never_its_first_rows() -> None:
    numbered = torch.arange(2000.0)[:, None].expand(-1, 3).contiguous()
    data = dataset(num_levels=None, train=numbered, validation=numbered, test=numbered)
    for split in ("train", "validation", "test"):
        x, ids = data.observations(split, 500, seed=3)
        assert torch.equal(x[:, 0], ids.float())
        assert torch.equal(ids, ids.sort().values)
        assert len(ids.unique()) == 500
        # The mean of 500 of 2,000 numbers has a standard deviation of 22.4.
        assert abs(float(ids.double().mean()) - 999.5) < 5.4 * 22.4
        smaller = data.observations(split, 100)[1]
        assert set(smaller.tolist()) < set(ids.tolist())
        everything, all_ids = data.observations(split)
        assert torch.equal(everything, numbered)
        assert torch.equal(all_ids, torch.arange(2000))


def test_observations_that_are_drawn_do_not_depend_on_which_others_are() -> None:
    grey = torch.full((300, 40), 0.5)
    data = dataset(train=grey, test=grey, access=Binarise(), test_access=Binarise())
    for split in ("train", "test"):
        whole = data.observations(split, seed=1)[0]
        some, ids = data.observations(split, 50, seed=1)
        assert torch.equal(whole[ids], some)
        again = data.observations(split, seed=2)[0]
        assert torch.equal(whole, again) == (split == "train")  # the test split is drawn anew with each evaluation
        assert abs(float(whole.double().mean()) - 0.5) < 5.4 * 0.5 / 12_000**0.5
    assert data.record()["test_binarization"] == "resample"
    assert data.record()["test_sha256"] == tensor_sha256(grey)


def test_info_measures_the_observations_that_a_model_sees() -> None:
    grey = Noise(0, "test").below(256, (3000, 4))
    mean = grey.double().mean(0)
    assert torch.equal(dataset(num_levels=256, train=grey).info.train_mean, mean.float())
    assert torch.equal(dataset(train=grey, access=Binarise(255)).info.train_mean, (mean / 255).float())
    assert dataset(num_levels=256, train=grey).info.scale == 1.0
    uniform = dataset(num_levels=None, bounds=(0.0, 1.0), train=grey, access=Dequantise(256)).info
    # (level + u) / 256, with u of mean 1/2 and variance 1/12, at 3,000 examples.
    assert torch.allclose(uniform.train_mean.double(), (mean + 0.5) / 256, atol=6 * (1 / 12 / 3000) ** 0.5 / 256)
    assert abs(uniform.scale - 12**-0.5) < 5.4 * 0.15 / 12_000**0.5
    assert uniform.bounds == (0.0, 1.0)
    logit = dataset(num_levels=None, train=grey, access=Dequantise(256, 0.05)).info
    x = 0.05 + 0.9 * (grey.double() + 0.5) / 256
    assert torch.allclose(logit.train_mean.double(), torch.logit(x).mean(0), atol=0.002)
    assert abs(logit.scale - float((torch.logit(x) - torch.logit(x).mean(0)).square().mean().sqrt())) < 0.002
    assert logit.bounds is None


def test_grey_is_what_a_picture_shows() -> None:
    grey = Noise(0, "test").below(256, (300, 4))
    levels = dataset(num_levels=256, train=grey, validation=grey.float(), test=grey.float())
    assert torch.equal(levels.grey(levels.test), grey.float() / 255)
    for access, bounds in ((Dequantise(256), (0.0, 1.0)), (Dequantise(256, 1e-6), None)):
        data = dataset(num_levels=None, bounds=bounds, train=grey, access=access)
        seen = data.grey(access(grey, Noise(0, "u"))) * 256
        assert torch.equal((seen - 1e-3).round().clamp(0), (seen - 1e-3).round().clamp(0))
        assert float((seen - grey - 0.5).abs().max()) <= 0.5 + 1e-2
    spread = torch.linspace(-3, 5, 900).view(300, 3)
    shown = dataset(num_levels=None, train=spread).grey(spread)
    assert (float(shown.min()), float(shown.max())) == (0.0, 1.0)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_splits_are_a_partition_of_the_images(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    grey = torch.from_numpy(load_digits().images / 16).float()
    order = Noise(seed=0, purpose="digits/split").permutation(1797)
    assert torch.equal(order.sort().values, torch.arange(1797))
    train, validation, test = grey[order].split([1297, 250, 250])
    assert torch.equal(digits.train, train)
    for observed, probability in ((digits.validation, validation), (digits.test, test)):
        assert observed.shape == (250, 8, 8)
        assert set(observed.unique().tolist()) == {0.0, 1.0}
        # A row that came from another image would show ink where there is none.
        assert (observed[probability == 0] == 0).all()
        assert (observed[probability == 1] == 1).all()
        assert abs(z_of(observed, probability)) < MAX_Z
    assert torch.equal((digits.train * 16).round() / 16, digits.train)
    assert isinstance(digits.access, Binarise)
    assert digits.values == "dynamic"
    assert digits.info.num_levels == 2
    assert digits.info.shape == (8, 8)
    assert abs(float(grey.mean()) - 0.30526) < 5e-6


def test_digits_of_another_scikit_learn_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    bunch.images[0, 0, 0] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: bunch)
    with pytest.raises(UsageError, match=r"^scikit-learn's load_digits .* expected 8f26b2bd9d135c25\.\.\.$"):
        Digits().load(Path("no-files-needed"))


# --- MNIST ------------------------------------------------------------------------------------------------------------


def test_dynamic_mnist_is_the_grey_files_in_their_order(mnist_dynamic: Dataset, root: Path) -> None:
    train = grey_mnist(root, "train-images-idx3-ubyte.gz")
    test = grey_mnist(root, "t10k-images-idx3-ubyte.gz")
    assert abs(float(train.mean()) - 0.13066) < 5e-6
    assert abs(float(test.mean()) - 0.13251) < 5e-6
    assert torch.equal(mnist_dynamic.train.double() / 255, train[:59_600])
    assert mnist_dynamic.validation.shape == (400, 28, 28)
    assert mnist_dynamic.test.shape == (10_000, 28, 28)
    for observed, probability in ((mnist_dynamic.validation, train[59_600:]), (mnist_dynamic.test, test)):
        assert set(observed.unique().tolist()) == {0.0, 1.0}
        assert (observed[probability == 0] == 0).all()
        assert (observed[probability == 1] == 1).all()
        assert abs(z_of(observed, probability)) < MAX_Z
    assert mnist_dynamic.access == Binarise(255)


def test_dynamic_mnist_is_drawn_anew_at_every_access(mnist_dynamic: Dataset) -> None:
    train, access = mnist_dynamic.train[:2000], mnist_dynamic.access
    batches = TrainingBatches(train, batch_size=2000, shuffle=False, access=access, seed=0)
    first = next(iter(batches)).x
    batches.set_epoch(1)
    second = next(iter(batches)).x
    probability = train.double() / 255
    for observed in (first, second):
        assert abs(z_of(observed, probability)) < MAX_Z
    # Two independent draws of a pixel differ with probability 2 p (1 - p).
    assert abs(z_of((first != second).float(), 2 * probability * (1 - probability))) < MAX_Z


def test_dynamic_mnist_keeps_the_end_of_the_file_for_validation(mnist_dynamic: Dataset, root: Path) -> None:
    larger = MnistDynamic(num_validation=10_000).load(root)
    assert torch.equal(larger.train, mnist_dynamic.train[:50_000])
    assert larger.validation.shape == (10_000, 28, 28)
    assert torch.equal(larger.test, mnist_dynamic.test)
    assert larger.protocol.startswith("50000/10000/10000")
    assert larger.protocol != mnist_dynamic.protocol


def test_static_mnist_is_the_published_files(mnist_static: Dataset, root: Path) -> None:
    expected = {"train": (50_000, 0.13056), "validation": (10_000, 0.13113), "test": (10_000, 0.13251)}
    for (split, (size, mean)), file in zip(expected.items(), MnistStatic.files, strict=True):
        observed = getattr(mnist_static, split)
        assert observed.shape == (size, 28, 28)
        assert abs(float(observed.double().mean()) - mean) < 5e-6
        with gzip.open(root / f"{file.path}.gz", "rt") as lines:
            by_another_reader = np.loadtxt(lines, max_rows=20)
        assert np.array_equal(observed[:20].reshape(20, 784).numpy(), by_another_reader)
    assert isinstance(mnist_static.access, AsIs)
    assert mnist_static.num_levels == 2


def test_static_mnist_test_images_are_sorted_by_class(mnist_static: Dataset, root: Path) -> None:
    labels = np.frombuffer(gzip.decompress((root / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    grey = grey_mnist(root, "t10k-images-idx3-ubyte.gz").float().view(10_000, 784)
    classes = torch.from_numpy(labels.astype(np.int64))
    observed = mnist_static.test.view(10_000, 784)
    start = 0
    for label in range(10):
        of_class = grey[classes == label]
        rows = observed[start : start + len(of_class)]
        # The mean image of the rows is that of the class, up to the noise of the binarisation.
        spread = (of_class * (1 - of_class)).sum(0).sqrt().clamp(min=1)
        assert float(((rows.sum(0) - of_class.sum(0)) / spread).abs().max()) < 6.5  # 7840 pixels, P < 7e-7
        start += len(of_class)


# --- linear Gaussian --------------------------------------------------------------------------------------------------


def test_linear_gaussian_data_have_the_covariance_of_their_parameters() -> None:
    num_train = 20_000
    source = LinearGaussianData(num_train=num_train)
    truth = source.parameters()
    x = source.load(Path("no-files-needed")).train.double() - truth.mean
    covariance = truth.weight @ truth.weight.T + truth.noise_std**2 * torch.eye(16, dtype=torch.float64)
    variance = covariance.diagonal()
    z_mean = x.mean(0) / (variance / num_train).sqrt()
    assert float(z_mean.abs().max()) < 6  # 16 dimensions, P = 3e-8
    # Isserlis: an entry of the sample covariance about the true mean has variance (C_ii C_jj + C_ij^2) / N.
    spread = ((variance[:, None] * variance[None, :] + covariance.square()) / num_train).sqrt()
    z = (x.T @ x / num_train - covariance) / spread
    assert float(z.abs().max()) < 6.5  # 136 entries, P = 1e-8
    # Off the signal's space there is noise alone: the D - L smallest eigenvalues are sigma^2.
    assert torch.allclose(
        torch.linalg.eigvalsh(covariance)[:12], torch.full((12,), 0.25, dtype=torch.float64), atol=1e-12
    )


def test_linear_gaussian_splits_are_independent_draws() -> None:
    dataset = LinearGaussianData(num_train=500).load(Path("no-files-needed"))
    truth = LinearGaussianData().parameters()
    std = (truth.weight.square().sum(1) + truth.noise_std**2).sqrt()
    centred = [(values.double() - truth.mean) / std for values in (dataset.train, dataset.validation, dataset.test)]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        # Row by row: the mean of 500 products of independent standardised values, in each dimension.
        z = (centred[left] * centred[right]).mean(0) * 500**0.5
        assert float(z.abs().max()) < 6.5  # 48 in all, P < 1e-7 allowing for the heavier tails of a product


def test_linear_gaussian_data_grow_at_the_end_and_depend_on_their_seed() -> None:
    place = Path("no-files-needed")
    small, large = LinearGaussianData(num_train=10).load(place), LinearGaussianData(num_train=20).load(place)
    assert torch.equal(large.train[:10], small.train)
    assert torch.equal(large.test, small.test)
    other = LinearGaussianData(num_train=10, data_seed=1)
    assert not torch.equal(other.load(place).test, small.test)
    assert not torch.equal(other.parameters().weight, LinearGaussianData().parameters().weight)
    assert small.observation == "continuous"
    assert small.num_levels is None
    assert small.train.dtype == torch.float32


@pytest.mark.parametrize("field", dataclasses.fields(LinearGaussianData), ids=lambda field: field.name)
def test_linear_gaussian_protocol_names_every_field_that_determines_the_data(field: dataclasses.Field[int]) -> None:
    value = not field.default if isinstance(field.default, bool) else field.default + 1
    changed = LinearGaussianData(**{field.name: value})
    determines = field.name not in {"batch_size", "shuffle"}
    assert (changed.protocol != LinearGaussianData().protocol) == determines
