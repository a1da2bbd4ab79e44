"""The data sets that are drawn from a known distribution: their examples, and the truth that is said of them."""

import dataclasses
import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from elbo_bench.data.dataset import Dataset, tensor_sha256
from elbo_bench.data.sets.bars import Bars
from elbo_bench.data.sets.mixture_data import MixtureData

SOURCES: list[type[Bars] | type[MixtureData]] = [Bars, MixtureData]
CONF = Path(__file__).resolve().parents[2] / "conf" / "data"
NOWHERE = Path("no-files-needed")

# Two-sided P = 7e-8 for a standard normal; the draws are fixed, so this is the risk at the time of writing. No test
# below asks for more than 150 such numbers at once: P < 1e-5 for each test.
MAX_Z = 5.4


def truth(data: Dataset, x: torch.Tensor) -> torch.Tensor:
    assert data.truth is not None
    return data.truth(x)


def z_of_mean(values: torch.Tensor, mean: torch.Tensor | float, variance: torch.Tensor | float) -> float:
    """How many standard errors the mean over the first axis is off, where it is off most."""
    error = torch.as_tensor(variance).double().sqrt() / math.sqrt(len(values))
    return float(((values.double().mean(0) - mean) / error).abs().max())


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "sha256"),
    [
        (Bars, "549dc4ccae0ec25fbc21a856cfb782dfbb2beb093bb47ce807fcc1dfbca23625"),
        (MixtureData, "1f3537dab125dd1a43cd570030d6ca21ccda592e177ffb9db5e897526cc65b7f"),
    ],
)
def test_every_run_is_scored_on_the_same_test_tensor(source: type[Bars] | type[MixtureData], sha256: str) -> None:
    first = source().load(NOWHERE)
    assert tensor_sha256(first.test) == sha256
    assert source.test_sha256 == {first.values: sha256}
    torch.manual_seed(99)
    again = source(batch_size=7, shuffle=False).load(NOWHERE)
    assert again.record() == first.record()
    assert torch.equal(again.validation, first.validation)
    assert torch.equal(again.train, first.train)


@pytest.mark.parametrize("source", SOURCES)
def test_yaml_lists_every_field_with_its_default(source: type[Bars] | type[MixtureData]) -> None:
    name = source.__module__.rpartition(".")[2]
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(written, dict)
    assert written.pop("target") == f"{source.__module__}:{source.__qualname__}"
    assert written == {field.name: field.default for field in dataclasses.fields(source)}


@pytest.mark.parametrize("source", SOURCES)
def test_a_data_set_says_what_it_is(source: type[Bars] | type[MixtureData]) -> None:
    data = source().load(NOWHERE)
    assert data.name == source.__module__.rpartition(".")[2]
    assert data.protocol == source().protocol
    assert data.observation == source().observation == ("discrete" if source is Bars else "continuous")
    assert data.num_levels == (2 if source is Bars else None)
    for split, size in (("train", 2000), ("validation", 500), ("test", 500)):
        x = getattr(data, split)
        assert x.dtype == torch.float32
        assert x.shape == (size, *((8, 8) if source is Bars else (2,)))
    for text in (source().protocol, source.licence, source.citation):
        assert text.strip()
        assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "values"),
    [
        *((Bars, {"side": side}) for side in (1, 13)),
        *((Bars, {"bar_probability": p}) for p in (0.0, 1.0, float("nan"))),
        *((Bars, {"flip": flip}) for flip in (0.0, -0.1, 0.51, float("nan"))),
        (MixtureData, {"num_dims": 1}),
        (MixtureData, {"num_components": 0}),
        *((MixtureData, {"radius": radius}) for radius in (0.0, -1.0, 101.0, float("inf"))),
        *((MixtureData, {"std": std}) for std in (0.0, 1e-4, 101.0, float("nan"))),
        *((source, {"data_seed": -1}) for source in SOURCES),
        *((source, {"num_test": 0}) for source in SOURCES),
    ],
)
def test_values_out_of_range_are_refused(source: type[Bars] | type[MixtureData], values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        source(**values)


@pytest.mark.parametrize(
    ("source", "field"), [(source, field) for source in SOURCES for field in dataclasses.fields(source)]
)
def test_the_protocol_names_every_field_that_determines_the_data(
    source: type[Bars] | type[MixtureData], field: dataclasses.Field[Any]
) -> None:
    default = field.default
    value = not default if isinstance(default, bool) else default * 1.001 if isinstance(default, float) else default + 1
    changed = source(**{field.name: value})
    determines = field.name not in {"batch_size", "shuffle"}
    assert (changed.protocol != source().protocol) == determines


# Neither 5 components nor a flip of 0.3 is a whole number of 256ths: a draw that is repeated would shift those after.
@pytest.mark.parametrize(
    "made", [Bars, functools.partial(Bars, flip=0.3), functools.partial(MixtureData, num_components=5)]
)
def test_data_grow_at_the_end_and_depend_on_their_seed(made: Any) -> None:
    small, large = (
        made(num_train=300).load(NOWHERE),
        made(num_train=5000, num_validation=700, num_test=501).load(NOWHERE),
    )
    for split, size in (("train", 300), ("validation", 500), ("test", 500)):
        assert torch.equal(getattr(large, split)[:size], getattr(small, split))
    other = made(num_train=300, data_seed=1).load(NOWHERE)
    for split in ("train", "validation", "test"):
        assert not torch.equal(getattr(other, split), getattr(small, split))
    # The seed chooses the examples and not what they are drawn from.
    assert torch.equal(truth(other, small.test), truth(small, small.test))


@pytest.mark.parametrize("source", SOURCES)
def test_splits_are_independent_draws(source: type[Bars] | type[MixtureData]) -> None:
    data = source(num_train=5000, num_validation=5000, num_test=5000).load(NOWHERE)
    seeds = source(num_train=5000, data_seed=1).load(NOWHERE)
    both = torch.cat([data.train, data.validation, data.test]).double().flatten(1)
    splits = [(x.double().flatten(1) - both.mean(0)) / both.std(0) for x in (data.train, data.validation, data.test)]
    splits.append((seeds.train.double().flatten(1) - both.mean(0)) / both.std(0))
    for left, right in itertools.combinations(splits, 2):
        # Row by row: the mean of 5,000 products of independent standardised values; 64 dimensions at most.
        assert z_of_mean(left * right, 0.0, 1.0) < MAX_Z


# --- mixture of Gaussians ---------------------------------------------------------------------------------------------


def reference_log_density(x: np.ndarray, num_components: int, radius: float, std: float) -> np.ndarray:
    """The log-density of rows of `x` by SciPy, with the means as complex roots of unity."""
    roots = radius * np.exp(2j * np.pi * np.arange(num_components) / num_components)
    parts = []
    for root in roots:
        mean = np.zeros(x.shape[1])
        mean[:2] = root.real, root.imag
        parts.append(multivariate_normal(mean, std**2 * np.eye(x.shape[1])).logpdf(x))
    return np.asarray(logsumexp(parts, axis=0, b=1 / num_components))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"num_components": 1},
        {"num_components": 3, "num_dims": 3, "radius": 0.5, "std": 1.5},
        {"num_components": 7, "num_dims": 6, "radius": 30.0, "std": 0.02},
    ],
)
def test_the_truth_of_a_mixture_is_its_log_density(values: dict[str, Any]) -> None:
    source = MixtureData(**values)
    data = source.load(NOWHERE)
    # On the data, between the modes, and so far off that every density is 0 in float64.
    wide = torch.linspace(-9, 9, 50 * source.num_dims).view(50, source.num_dims) * source.radius
    x = torch.cat([data.test, wide.sin() * source.radius, 50 * wide, torch.zeros(1, source.num_dims)])
    found = truth(data, x)
    expected = reference_log_density(x.double().numpy(), source.num_components, source.radius, source.std)
    assert found.dtype == torch.float64
    assert np.allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_the_density_of_a_mixture_integrates_to_one_and_its_mean_logarithm_is_minus_the_entropy() -> None:
    source = MixtureData(num_train=20_000, std=0.3)
    # Sums over a grid much finer than a standard deviation converge faster than any power of its step.
    step = 0.05
    axis = torch.arange(-5, 5, step, dtype=torch.float64)
    data = source.load(NOWHERE)
    log_p = truth(data, torch.cartesian_prod(axis, axis))
    mass = log_p.exp() * step**2
    assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
    entropy = -float((mass * log_p).sum())
    variance = float((mass * (log_p + entropy).square()).sum())
    assert z_of_mean(truth(data, data.train), -entropy, variance) < MAX_Z
    # Modes apart from each other: the entropy of the choice among 8, and of a Gaussian in 2 dimensions.
    apart = MixtureData(num_train=20_000, std=0.02).load(NOWHERE)
    entropy = math.log(8) + math.log(2 * math.pi * math.e * 0.02**2)
    assert z_of_mean(truth(apart, apart.train), -entropy, 1.0) < MAX_Z  # chi-square with 2 degrees, halved: variance 1


def test_mixture_examples_are_normal_about_means_that_are_equally_likely() -> None:
    num_train, num_components, radius, std = 20_000, 5, 3.0, 0.05
    source = MixtureData(num_dims=4, num_components=num_components, radius=radius, std=std, num_train=num_train)
    x = source.load(NOWHERE).train.double()
    # 3 / 0.05 standard deviations from the next: the nearest mean is the one it was drawn about.
    sector = ((torch.atan2(x[:, 1], x[:, 0]) * num_components / (2 * math.pi)).round() % num_components).long()
    for k in range(num_components):
        share = 1 / num_components
        assert z_of_mean((sector == k).double(), share, share * (1 - share)) < MAX_Z
        angle = 2 * math.pi * k / num_components
        mean = torch.tensor([radius * math.cos(angle), radius * math.sin(angle), 0, 0], dtype=torch.float64)
        noise = (x[sector == k] - mean) / std
        assert z_of_mean(noise, 0.0, 1.0) < MAX_Z
        # A product of two of them has mean 0 and variance 1; a square has mean 1 and variance 2.
        products = noise[:, :, None] * noise[:, None, :]
        one = torch.eye(4, dtype=torch.float64)
        assert z_of_mean(products, one, 1 + one) < MAX_Z
    # Neighbours in the split have nothing in common.
    same = (sector[1:] == sector[:-1]).double()
    assert z_of_mean(same, 0.2, 0.2 * 0.8) < MAX_Z


def test_a_mixture_has_the_mean_and_covariance_of_its_ring() -> None:
    x = MixtureData(num_dims=3, num_train=20_000).load(NOWHERE).train.double()
    # Equally spaced means add up to 0, and their covariance is r^2 / 2 times the identity of the plane.
    variance = torch.tensor([2.04, 2.04, 0.04], dtype=torch.float64)
    assert z_of_mean(x, 0.0, variance) < MAX_Z
    products = x[:, :, None] * x[:, None, :]
    assert z_of_mean(products, torch.diag(variance), products.var(0)) < MAX_Z


# --- bars -------------------------------------------------------------------------------------------------------------


@functools.cache
def all_states(side: int) -> tuple[np.ndarray, np.ndarray]:
    """All 2^(2 side) states of the bars as clean images, `[S, side, side]`, and how many bars are on in each."""
    states = list(itertools.product((0, 1), repeat=2 * side))
    images = [[[int(s[i] or s[side + j]) for j in range(side)] for i in range(side)] for s in states]
    return np.array(images), np.array([sum(s) for s in states])


def reference_log_probability(x: np.ndarray, p: float, flip: float) -> np.ndarray:
    """The log-probability of images by enumeration of every state of every bar."""
    num_pixels, side = x[0].size, len(x[0])
    clean, on = all_states(side)
    log_p_state = on * np.log(p) + (2 * side - on) * np.log(1 - p)
    found = []
    for image in x:
        flipped = (clean != image).sum((1, 2))
        found.append(logsumexp(log_p_state + flipped * np.log(flip) + (num_pixels - flipped) * np.log(1 - flip)))
    return np.array(found)


def all_images(side: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=side**2))).view(-1, side, side)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize(("p", "flip"), [(0.125, 0.05), (0.7, 0.3), (0.4, 1e-9), (0.01, 0.5)])
def test_the_truth_of_bars_is_the_sum_over_their_states(side: int, p: float, flip: float) -> None:
    data = Bars(side=side, bar_probability=p, flip=flip, num_train=1).load(NOWHERE)
    x = all_images(side)
    log_p = truth(data, x)
    assert log_p.dtype == torch.float64
    assert np.allclose(log_p.numpy(), reference_log_probability(x.numpy(), p, flip), rtol=1e-11, atol=1e-11)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_the_truth_of_bars_at_the_default_size_is_the_sum_over_their_states() -> None:
    # 65,536 states by 64 pixels an image: eight drawn ones, one of ink alone and one of chance.
    data = Bars().load(NOWHERE)
    other = Bars(flip=0.5).load(NOWHERE)
    x = torch.cat([data.test[:8], torch.ones(1, 8, 8), other.test[:1]])
    expected = reference_log_probability(x.numpy(), 0.125, 0.05)
    assert np.allclose(truth(data, x).numpy(), expected, rtol=1e-11)
    # Pixels that are flipped half of the time say nothing of the bars.
    assert truth(other, x).tolist() == pytest.approx([-64 * math.log(2)] * len(x), rel=1e-13)


@pytest.mark.parametrize("side", [5, 11, 12])
def test_the_truth_of_bars_is_the_same_turned_over_and_in_any_order_and_in_parts(side: int) -> None:
    data = Bars(side=side, bar_probability=1 / side, flip=0.02).load(NOWHERE)
    x = data.test[:60]  # more than are summed at a time with 12 pixels a side
    log_p = truth(data, x)
    assert bool(log_p.isfinite().all())
    assert float(log_p.std()) > 1
    # Rows are summed over one way and columns another, and yet they are alike.
    assert torch.allclose(truth(data, x.transpose(1, 2)), log_p, rtol=1e-12)
    assert torch.allclose(truth(data, x.flip(1)[:, :, torch.arange(side).roll(2)]), log_p, rtol=1e-12)
    assert torch.allclose(torch.cat([truth(data, row[None]) for row in x[-20:]]), log_p[-20:], rtol=1e-13)
    assert truth(data, x[:0]).shape == (0,)


@pytest.mark.parametrize("side", [2, 3])
def test_the_mean_truth_of_bars_is_minus_their_entropy(side: int) -> None:
    p, flip = 0.3, 0.1
    data = Bars(side=side, bar_probability=p, flip=flip, num_train=20_000).load(NOWHERE)
    log_p = torch.from_numpy(reference_log_probability(all_images(side).numpy(), p, flip))
    entropy = -float((log_p.exp() * log_p).sum())
    variance = float((log_p.exp() * (log_p + entropy).square()).sum())
    assert z_of_mean(truth(data, data.train), -entropy, variance) < MAX_Z


def test_every_image_of_bars_is_as_frequent_as_its_probability() -> None:
    p, flip, side = 0.3, 0.1, 2
    data = Bars(side=side, bar_probability=p, flip=flip, num_train=20_000).load(NOWHERE)
    for image, log_p in zip(all_images(side), truth(data, all_images(side)).tolist(), strict=True):
        probability = math.exp(log_p)
        assert probability * 20_000 > 100  # a normal approximation of the count is good enough
        hits = (data.train == image).all(2).all(1).double()
        assert z_of_mean(hits, probability, probability * (1 - probability)) < MAX_Z


def test_bars_have_the_ink_of_their_bars() -> None:
    p, flip = 0.125, 0.05
    x = Bars(num_train=20_000).load(NOWHERE).train.double()
    # A pixel is on before the noise unless neither of its bars is; the noise keeps 1 - 2 flip of what is about 1/2.
    off, kept = (1 - p) ** 2, 1 - 2 * flip
    mean = flip + kept * (1 - off)
    assert z_of_mean(x, mean, mean * (1 - mean)) < MAX_Z  # 64 pixels
    centred = (x - mean).flatten(1)
    products = centred.T @ centred / len(x)  # the mean of each, and below the variance
    variance = centred.square().T @ centred.square() / len(x) - products.square()
    # Two pixels of one row or column share a bar: they are both off with (1 - p)^3. Others are independent.
    i = torch.arange(8)
    row, column = i[:, None, None, None] == i[:, None], i[:, None, None] == i
    shared = kept**2 * ((1 - p) ** 3 - off**2)
    same, alike = (row & column).view(64, 64), (row ^ column).view(64, 64)
    covariance = mean * (1 - mean) * same.double() + shared * alike.double()
    z = (products - covariance) / (variance / len(x)).sqrt()
    assert float(z.abs().max()) < 6.2  # 2,080 pairs of pixels: P = 1e-6


def test_bars_without_much_noise_are_bars() -> None:
    p = 0.125
    x = Bars(flip=1e-12, num_train=20_000).load(NOWHERE).train.bool()
    rows, columns = x.all(2), x.all(1)
    # An image is the union of its full rows and columns, and about two of these are on.
    assert torch.equal(rows[:, :, None] | columns[:, None, :], x)
    clear = ~(rows.all(1) | columns.all(1))  # all rows on would look like all columns on
    assert float(clear.double().mean()) > 0.9999
    on = torch.cat([rows, columns], 1)[clear].double()
    assert z_of_mean(on, p, p * (1 - p)) < MAX_Z
    assert z_of_mean(on.sum(1), 2.0, 16 * p * (1 - p)) < MAX_Z
