"""How rows become observations: draws of the right probability, and densities that account for what was done."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from elbo_bench.data.access import AsIs, Binarise, Dequantise
from elbo_bench.data.examples import summarise
from elbo_bench.noise import Noise

# Two-sided P = 7e-8 for a standard normal; the draws are fixed, so this is the risk at the time of writing.
MAX_Z = 5.4


@pytest.mark.parametrize("top", [1, 2, 16, 128, 129, 225, 254, 255])
def test_a_byte_is_one_with_probability_grey_over_top_exactly(top: int) -> None:
    """Each grey value by itself: a draw that is off by 1 in 256 at one of them is seen."""
    count = 40_000
    grey = torch.arange(top + 1, dtype=torch.uint8)[:, None].expand(-1, count).contiguous()
    drawn = Binarise(top)(grey, Noise(3, "test")).double()
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    probability = torch.arange(top + 1, dtype=torch.float64) / top
    assert (drawn[0] == 0).all()
    assert (drawn[top] == 1).all()
    if top > 1:
        inner = probability[1:-1]
        z = (drawn[1:-1].mean(1) - inner) / (inner * (1 - inner) / count).sqrt()
        assert float(z.abs().max()) < 6.2  # 254 values, P = 1.5e-7
        # All together: a bias of one 256th everywhere would be 40 standard errors.
        total = (drawn[1:-1].sum() - count * inner.sum()) / (count * (inner * (1 - inner)).sum()).sqrt()
        assert abs(float(total)) < MAX_Z


def test_floats_are_probabilities_and_bytes_are_drawn_alike() -> None:
    probability = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).repeat_interleave(20_000).view(5, -1)
    drawn = Binarise()(probability, Noise(0, "test")).double()
    assert (drawn[0] == 0).all()
    assert (drawn[4] == 1).all()
    inner = probability[1:4, 0].double()
    z = (drawn[1:4].mean(1) - inner) / (inner * (1 - inner) / 20_000).sqrt()
    assert float(z.abs().max()) < MAX_Z


@pytest.mark.parametrize("end", [1, 2, 3, 16, 100, 128, 129, 200, 225, 255, 256])
def test_numbers_below_an_end_are_uniform_and_independent_of_each_other(end: int) -> None:
    numbers = Noise(1, "below").below(end, (500, 400))
    assert numbers.dtype == torch.uint8
    assert int(numbers.max()) < end
    counts = np.bincount(numbers.flatten().numpy(), minlength=end)
    if end > 1:
        assert scipy.stats.chisquare(counts).pvalue > 1e-7
        pairs = np.histogram2d(numbers[:, 0::2].flatten(), numbers[:, 1::2].flatten(), bins=min(end, 4))[0]
        assert scipy.stats.chi2_contingency(pairs).pvalue > 1e-7
    assert torch.equal(numbers, Noise(1, "below").below(end, (500, 400)))
    assert end == 1 or not torch.equal(numbers, Noise(1, "below", 1).below(end, (500, 400)))


@pytest.mark.parametrize("end", [16, 225, 255])
def test_ranks_draw_their_part_of_what_is_drawn_for_the_whole_batch(end: int) -> None:
    whole = Noise(1, "rows").below(end, (11, 3, 5))
    uniform = Noise(1, "rows").uniform((11, 3, 5))
    for start, stop in ((0, 4), (4, 4), (4, 11)):
        part = Noise(1, "rows", rows=(start, 11))
        assert torch.equal(part.below(end, (stop - start, 3, 5)), whole[start:stop])
        assert torch.equal(part.uniform((stop - start, 3, 5)), uniform[start:stop])


@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_dequantised_levels_stay_in_their_own_interval(num_levels: int) -> None:
    levels = torch.arange(num_levels, dtype=torch.uint8).repeat(400).view(400, num_levels)
    x = Dequantise(num_levels)(levels, Noise(0, "test"))
    assert x.dtype == torch.float32
    position = x.double() * num_levels - levels
    # A float32 keeps 2^-24 of one: 2^-16 of a level out of 256.
    assert float(position.min()) >= -num_levels * 2**-24
    assert float(position.max()) <= 1 + num_levels * 2**-24
    assert scipy.stats.kstest(position.flatten().numpy(), "uniform").pvalue > 1e-7
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_the_logit_is_the_published_one_and_grey_undoes_it(alpha: float) -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(40).view(40, 256)
    x = Dequantise(256)(levels, Noise(0, "test")).double().numpy()
    y = Dequantise(256, alpha)(levels, Noise(0, "test"))
    expected = scipy.special.logit(alpha + (1 - 2 * alpha) * x)
    # x is a float32 here, and its last bit counts for much near 0 and 1.
    inner = (x > 1e-3) & (x < 1 - 1e-3)
    np.testing.assert_allclose(y.numpy()[inner], expected[inner], atol=2e-4, rtol=0)
    assert float(y.abs().max()) <= abs(scipy.special.logit(alpha)) * 1.0001
    np.testing.assert_allclose(Dequantise(256, alpha).grey(y).numpy()[inner], x[inner], atol=2e-6, rtol=0)


@pytest.mark.parametrize("alpha", [None, 1e-6, 0.05])
def test_the_volume_is_the_determinant_of_the_whole_map(alpha: float | None) -> None:
    """Against autograd, through levels + u as real numbers."""
    access = Dequantise(256, alpha)

    def whole(v: Tensor) -> Tensor:
        x = v / 256
        return x if alpha is None else torch.logit(alpha + (1 - 2 * alpha) * x)

    v = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 254 + 1
    jacobian = torch.stack([torch.func.jacrev(whole)(row) for row in v])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    np.testing.assert_allclose(access.log_volume(whole(v)), expected, rtol=1e-10)


@pytest.mark.parametrize("alpha", [None, 1e-6, 0.05])
def test_a_density_of_observations_is_one_of_levels_and_bounds_their_probability(alpha: float | None) -> None:
    """Three levels with known probabilities: the best density of v = level + u is that probability, exactly."""
    probability = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    access = Dequantise(3, alpha)
    levels = torch.multinomial(probability, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    x = access(levels[:, None].byte(), Noise(0, "test"))
    volume = access.log_volume(x)

    def log_density_of_x(log_density_of_level: Tensor) -> Tensor:
        return log_density_of_level - volume  # change of variables

    best = log_density_of_x(probability[levels].log()) + volume
    assert torch.allclose(best, probability[levels].log())
    # Any other density of v, here one that is not flat within a level, gives at most that on average.
    v = access.grey(x).double()[:, 0] * 3
    tilted = probability[levels] * (0.5 + (v - levels))  # integrates to the same probability over each level
    worse = log_density_of_x(tilted.clamp_min(1e-9).log()) + volume
    assert float(worse.mean()) < float(best.mean()) - 0.03  # E log(1/2 + u) = -0.0452
    assert abs(float((worse - best).mean()) - (1.5 * math.log(1.5) - 0.5 * math.log(0.5) - 1)) < 0.01


def test_as_is_changes_nothing_and_draws_nothing() -> None:
    floats, grey = torch.randn(4, 3), Noise(0, "x").below(256, (4, 3))
    assert AsIs()(floats, Noise(0, "")) is floats
    assert torch.equal(AsIs()(grey, Noise(0, "")), grey.float())
    assert AsIs().log_volume(floats) is None
    assert AsIs().grey(floats) is floats


def test_a_summary_is_exact_for_bytes_and_sees_every_value() -> None:
    grey = Noise(0, "summary").below(256, (70_000, 7, 5))  # more rows than are summed in float32 at once
    found = summarise(grey)
    assert torch.equal(found.mean, torch.from_numpy(grey.numpy().sum(0, dtype=np.int64) / 70_000))
    assert (found.least, found.most, found.integers) == (0.0, 255.0, True)
    floats = torch.randn(70_000, 3, generator=torch.Generator().manual_seed(0))
    found = summarise(floats)
    np.testing.assert_allclose(found.mean, floats.double().mean(0), rtol=1e-9, atol=1e-12)
    assert (found.least, found.most, found.integers) == (float(floats.min()), float(floats.max()), False)
    for number in (69_999, 0):
        spoilt = floats.clone()
        spoilt[number, 2] = math.nan
        assert not summarise(spoilt).finite
