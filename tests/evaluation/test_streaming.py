"""Laws of the streamed estimates: equal to NumPy's on the whole array, however the stream is cut."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import hypothesis
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import strategies as st
from support.linear_gaussian_case import Fixed, linear_gaussian, observations, trials
from torch import Tensor
from torch.distributions import Categorical

from elbo_bench.draws import Draws, draw
from elbo_bench.evaluation.estimate import Scores
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.evaluation.importance import Importance
from elbo_bench.evaluation.importance_sampling.encoder_pass import EncoderPass
from elbo_bench.evaluation.importance_sampling.pareto import pareto_k, tail_size
from elbo_bench.evaluation.importance_sampling.streaming import (
    GroupedBound,
    GroupedWeights,
    NonFinite,
    PairedMoments,
    TailWeights,
    WeightSummary,
)
from elbo_bench.noise import Noise

B = 4


class Of:
    """A bound of so many samples."""

    def __init__(self, bound: Callable[[Draws], Tensor], samples_required: int) -> None:
        self.bound, self.samples_required = bound, samples_required

    def __call__(self, draws: Draws) -> Tensor:
        return self.bound(draws)


# Where a stream of up to 40 samples is cut; a cut that comes twice makes an empty piece.
cuts = st.lists(st.integers(0, 40), max_size=8)
offsets = st.sampled_from([0.0, 1e4, -1e4, 300.0])


@st.composite
def streams(draw_, min_size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights and values, `[n, B]` each: mild, heavy-tailed, or rising so steeply that the last one is all."""
    size, seed = draw_(st.integers(min_size, 40)), draw_(st.integers(0, 10_000))
    spread = draw_(st.sampled_from([0.1, 2.0, 15.0]))
    slope = draw_(st.sampled_from([0.0, 30.0, -30.0]))
    generator = np.random.default_rng(seed)
    log_w = spread * generator.normal(size=(size, B)) + slope * np.arange(size)[:, None]
    return log_w, 3 * generator.normal(size=(size, B)) + 0.5 * log_w


def pieces(array: np.ndarray | Tensor, edges: list[int]) -> Iterator[Tensor]:
    whole = torch.as_tensor(array)
    inner = [min(edge, len(whole)) for edge in sorted(edges)]
    for start, stop in itertools.pairwise([0, *inner, len(whole)]):
        yield whole[start:stop]


def moments(log_w: np.ndarray, value: np.ndarray, edges: list[int]) -> PairedMoments:
    streamed = PairedMoments(log_w.shape[1])
    for weight_piece, value_piece in zip(pieces(log_w, edges), pieces(value, edges), strict=True):
        streamed.update(weight_piece, value_piece)
    return streamed


def relative_weights(log_w: np.ndarray) -> np.ndarray:
    """Weights over their mean."""
    return len(log_w) * scipy.special.softmax(log_w, axis=0)


def se_of_mean(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) / math.sqrt(len(values))


# --- moments ---


@hypothesis.given(stream=streams(), edges=cuts, w_offset=offsets, v_offset=offsets)
@trials(60)
def test_every_estimate_is_numpy_s_on_the_whole_array(
    stream: tuple[np.ndarray, np.ndarray], edges: list[int], w_offset: float, v_offset: float
) -> None:
    log_w, value = stream[0] + w_offset, stream[1] + v_offset
    streamed = moments(log_w, value, edges)
    weights = relative_weights(log_w)
    # An offset of 1e4 rounds what is added to it at 2e-12; differences of such numbers keep ten digits.
    close = {"rtol": 1e-8, "atol": 1e-9}
    assert (streamed.weights.count == len(log_w)).all()
    np.testing.assert_allclose(streamed.mean(), value.mean(0), rtol=1e-13, atol=1e-10)
    np.testing.assert_allclose(streamed.mean_se(), se_of_mean(value), **close)
    expected = scipy.special.logsumexp(log_w, axis=0) - math.log(len(log_w))
    np.testing.assert_allclose(streamed.weights.log_mean_weight(), expected, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(streamed.weights.log_mean_weight_se(), se_of_mean(weights), **close)
    np.testing.assert_allclose(streamed.weights.effective_sample_size(), len(log_w) ** 2 / (weights**2).sum(0), **close)
    # The delta method: log p(x) - mean value moves with each sample by w_k / mean w - v_k.
    np.testing.assert_allclose(streamed.gap_se(), se_of_mean(weights - value), **close)


@hypothesis.given(stream=streams(min_size=6), edges=cuts, zeros=st.lists(st.integers(0, 39), min_size=1, max_size=30))
@trials(60)
def test_a_weight_of_zero_counts_and_adds_nothing(
    stream: tuple[np.ndarray, np.ndarray], edges: list[int], zeros: list[int]
) -> None:
    log_w, value = stream
    log_w[[zero for zero in zeros if zero < len(log_w) - 1], 1:] = -math.inf
    streamed = moments(log_w, value, edges)
    weights = relative_weights(log_w)
    expected = scipy.special.logsumexp(log_w, axis=0) - math.log(len(log_w))
    np.testing.assert_allclose(streamed.weights.log_mean_weight(), expected, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(streamed.weights.log_mean_weight_se(), se_of_mean(weights), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        streamed.weights.effective_sample_size(), len(log_w) ** 2 / (weights**2).sum(0), rtol=1e-10
    )
    np.testing.assert_allclose(streamed.gap_se(), se_of_mean(weights - value), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("edges", [[], [1], [3], [2, 5]], ids=str)
def test_a_log_weight_of_minus_infinity_as_the_value_leaves_log_p_x_alone(edges: list[int]) -> None:
    log_w = np.random.default_rng(0).normal(size=(9, B))
    log_w[:3, 1] = log_w[5, 2] = log_w[:, 3] = -math.inf
    streamed = moments(log_w, log_w, edges)
    expected = scipy.special.logsumexp(log_w, axis=0) - math.log(9)
    np.testing.assert_allclose(streamed.weights.log_mean_weight(), expected, rtol=1e-13)
    assert streamed.weights.log_mean_weight()[3] == -math.inf
    some = relative_weights(log_w[:, :3])
    np.testing.assert_allclose(streamed.weights.effective_sample_size()[:3], 9**2 / (some**2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.mean()[:1], log_w[:, 0].mean())
    assert streamed.mean()[1:].tolist() == [-math.inf] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("edges", [[], [4], [5]], ids=str)
def test_a_number_that_is_none_stays_visible_in_its_example_alone(bad: float, edges: list[int]) -> None:
    generator = np.random.default_rng(0)
    log_w, value = generator.normal(size=(9, B)), generator.normal(size=(9, B))
    broken = log_w.copy()
    broken[4, 2] = bad
    found, whole = moments(broken, value, edges), moments(log_w, value, edges)
    others = [0, 1, 3]
    for estimate in ("log_mean_weight", "log_mean_weight_se", "effective_sample_size"):
        one, other = getattr(found.weights, estimate)(), getattr(whole.weights, estimate)()
        assert not math.isfinite(one[2])
        np.testing.assert_array_equal(one[others], other[others])
    assert not math.isfinite(found.gap_se()[2])
    np.testing.assert_array_equal(found.gap_se()[others], whole.gap_se()[others])
    broken_value = value.copy()
    broken_value[4, 2] = bad
    assert not math.isfinite(moments(log_w, broken_value, edges).mean()[2])


@pytest.mark.parametrize("level", [0.1, -1e4, 1e4])
def test_equal_weights_have_no_error_and_count_in_full(level: float) -> None:
    log_w = np.full((37, B), level)
    streamed = moments(log_w, log_w, [5, 20])
    np.testing.assert_allclose(streamed.weights.log_mean_weight(), level, rtol=1e-14)
    np.testing.assert_allclose(streamed.weights.effective_sample_size(), 37, rtol=1e-13)
    for error in (streamed.mean_se(), streamed.weights.log_mean_weight_se(), streamed.gap_se()):
        np.testing.assert_allclose(error, 0, atol=1e-8)


def test_the_effective_sample_size_is_1_for_a_single_weight_and_k_for_equal_ones() -> None:
    log_w = np.array([[0.0, 0.0], [-2000.0, 0.0], [-1000.0, 0.0], [-1500.0, 0.0]])
    np.testing.assert_allclose(moments(log_w, log_w, [1, 3]).weights.effective_sample_size(), [1, 4], rtol=1e-14)


@pytest.mark.parametrize("correlation", [1.0, -1.0, 0.0])
def test_the_standard_errors_are_the_spread_over_replications(correlation: float) -> None:
    # 4000 replications of 400 samples side by side. A spread is known to 1.1 %, and the delta method to O(1/400):
    # 7 % is six standard errors, false-fail 1e-8. A covariance of the wrong sign or none is off by 40 % or more.
    generator = np.random.default_rng(5)
    log_w = 0.5 * generator.normal(size=(400, 4000))
    value = correlation * log_w + (0.1 if correlation else 0.5) * generator.normal(size=log_w.shape)
    streamed = moments(log_w, value, [100, 250])
    gaps = (streamed.weights.log_mean_weight() - streamed.mean()).numpy()
    for found, estimates in [
        (streamed.gap_se(), gaps),
        (streamed.weights.log_mean_weight_se(), streamed.weights.log_mean_weight().numpy()),
        (streamed.mean_se(), streamed.mean().numpy()),
    ]:
        assert found.square().mean().sqrt().item() == pytest.approx(estimates.std(ddof=1), rel=0.07)
    # E w = exp(s^2 / 2); the log of a mean is low by half its squared error, 4e-4 here.
    assert streamed.weights.log_mean_weight().mean().item() == pytest.approx(0.125, abs=2e-3)


def test_a_squared_standard_error_is_unbiased_at_few_samples() -> None:
    # Three samples: dividing by n in the place of n - 1 would make it a third too small; 3 % is seen.
    value = np.random.default_rng(5).normal(size=(3, 100_000))
    squared = moments(np.zeros_like(value), value, [1]).mean_se().square()
    error = (squared.mean() - 1 / 3) / (squared.std() / math.sqrt(100_000))
    assert abs(error) < 5.8
    assert squared.std() / math.sqrt(100_000) < 0.002


# --- groups ---


@hypothesis.given(stream=streams(), edges=cuts, size=st.integers(1, 12), offset=offsets)
@trials(60)
def test_l_k_comes_from_disjoint_groups_of_k_in_the_order_of_the_stream(
    stream: tuple[np.ndarray, np.ndarray], edges: list[int], size: int, offset: float
) -> None:
    log_w = stream[0] + offset
    log_w[::5, 2] = -math.inf
    grouped = GroupedWeights(size, B)
    for piece in pieces(log_w, edges):
        grouped.update(piece)
    whole = len(log_w) // size  # what is left over fills no group
    assert (grouped.moments.weights.count == whole).all()
    if not whole:
        return
    groups = log_w[: whole * size].reshape(whole, size, B)
    bounds = scipy.special.logsumexp(groups, axis=1) - math.log(size)
    np.testing.assert_allclose(grouped.moments.mean(), bounds.mean(0), rtol=1e-12, atol=1e-10)
    expected = scipy.special.logsumexp(bounds, axis=0) - math.log(whole)
    np.testing.assert_allclose(grouped.moments.weights.log_mean_weight(), expected, rtol=1e-12, atol=1e-10)
    if whole > 1 and np.isfinite(bounds).all():
        np.testing.assert_allclose(grouped.moments.mean_se(), se_of_mean(bounds), rtol=1e-8, atol=1e-9)


def bound_of_everything(draws: Draws) -> Tensor:
    """A value that depends on each part of the draws, on the samples as a group and on their order."""
    return (
        draws.log_w[0]
        + torch.logsumexp(2 * draws.log_w, 0) / 2
        - draws.analytic_kl()
        + draws.z.amax((0, 2)) * draws.log_p_z.std(0)
    )


@hypothesis.given(edges=st.lists(st.integers(0, 23), max_size=6), size=st.integers(2, 9))
@trials(60)
def test_a_bound_sees_disjoint_groups_of_the_samples_that_it_needs(edges: list[int], size: int) -> None:
    noise = torch.randn(23, B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        draws = draw(linear_gaussian(), observations(), 23, Fixed(noise))
    grouped = GroupedBound(Of(bound_of_everything, size), B)
    for start, stop in itertools.pairwise([0, *sorted(edges), 23]):
        grouped.update(draws.samples(start, stop))
    groups = [draws.samples(start, start + size) for start in range(0, 23 - size + 1, size)]
    values = np.stack([bound_of_everything(group) for group in groups])
    log_w = draws.log_w.numpy()[: len(groups) * size]
    assert (grouped.moments.weights.count == len(groups)).all()
    np.testing.assert_allclose(grouped.moments.mean(), values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(grouped.moments.mean_se(), se_of_mean(values), rtol=1e-9)
    expected = scipy.special.logsumexp(log_w, axis=0) - math.log(len(log_w))
    np.testing.assert_allclose(grouped.moments.weights.log_mean_weight(), expected, rtol=1e-12)
    weights = np.exp(log_w - expected).reshape(len(groups), size, B).mean(1)
    np.testing.assert_allclose(grouped.moments.gap_se(), se_of_mean(weights - values), rtol=1e-9)


def test_a_bound_in_single_precision_is_averaged_in_double() -> None:
    noise = torch.randn(12, B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        draws = draw(linear_gaussian(), observations(), 12, Fixed(noise))
    parts = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")
    single = dataclasses.replace(draws, **{name: getattr(draws, name).float() for name in parts})
    grouped = GroupedBound(Of(lambda group: group.log_w.mean(0), 3), B)
    grouped.update(single)
    assert grouped.moments.mean().dtype is torch.float64
    by_hand = single.log_w.view(4, 3, B).mean(1).double().mean(0)
    np.testing.assert_allclose(grouped.moments.mean(), by_hand, rtol=1e-12)


# --- the tail and what is not finite ---


@hypothesis.given(stream=streams(), edges=cuts, size=st.integers(1, 12))
@trials(60)
def test_the_tail_is_the_largest_log_weights_in_ascending_order(
    stream: tuple[np.ndarray, np.ndarray], edges: list[int], size: int
) -> None:
    log_w = stream[0]
    tail = TailWeights(size, B)
    for piece in pieces(log_w, edges):
        tail.update(piece)
    expected = np.sort(log_w, axis=0)[-size:]
    filled = len(expected)
    np.testing.assert_array_equal(tail.sorted()[size - filled :], expected)
    assert (tail.sorted()[: size - filled] == -math.inf).all()


@pytest.mark.parametrize("edges", [[], [1], [2, 4], [4, 4]], ids=str)
def test_which_examples_met_what_is_no_weight(edges: list[int]) -> None:
    log_w = np.zeros((6, 5))
    log_w[1, 1], log_w[4, 2], log_w[0, 3], log_w[2, 4], log_w[5, 4] = math.nan, math.inf, -math.inf, math.inf, math.nan
    broken = NonFinite(5)
    for piece in pieces(log_w, edges):
        broken.update(piece)
    assert broken.nan.tolist() == [False, True, False, False, True]
    # A weight of zero is a weight.
    assert broken.infinite.tolist() == [False, False, True, False, True]


# --- groups side by side, and examples with as many samples as each was given ---


class Sized:
    """A bound of everything in the draws, of as many samples as are asked for."""

    def __init__(self, samples_required: int) -> None:
        self.samples_required = samples_required

    def __call__(self, draws: Draws) -> Tensor:
        assert len(draws.z) == self.samples_required
        ramp = torch.arange(1.0, 1 + len(draws.z), dtype=torch.float64)[:, None]
        drawn = torch.logsumexp(ramp * draws.log_w, 0) - draws.analytic_kl() + draws.posterior_entropy()
        return drawn + draws.z.amax((0, 2)) * draws.log_p_z.mean(0) - draws.log_q_z_given_x[-1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
@pytest.mark.parametrize("chunk", [1, 4, 11, 50, 200])
def test_groups_side_by_side_are_what_one_group_at_a_time_is(size: int, chunk: int) -> None:
    model, x, count = linear_gaussian(), observations(), 150
    noise = torch.randn(count, B, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        draws = draw(model, x, count, Fixed(noise))
        bound = Sized(size)
        together = GroupedBound(Of(bound, size), B, lambda times: model.posterior(x.repeat(times, 1)))
        alone = GroupedBound(Of(bound, size), B)
        for start in range(0, count, chunk):
            together.update(draws.samples(start, min(count, start + chunk)))
            alone.update(draws.samples(start, min(count, start + chunk)))
        values = np.stack([bound(draws.samples(i, i + size)) for i in range(0, count - size + 1, size)])
    assert (together.moments.weights.count == count // size).all()
    assert (alone.moments.weights.count == count // size).all()
    for found in (together.moments, alone.moments):
        np.testing.assert_allclose(found.mean(), values.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.mean_se(), se_of_mean(values), rtol=1e-9)
    one, other = together.moments, alone.moments
    for estimate, expected in [
        (one.mean(), other.mean()),
        (one.weights.log_mean_weight(), other.weights.log_mean_weight()),
        (one.weights.effective_sample_size(), other.weights.effective_sample_size()),
    ]:
        np.testing.assert_allclose(estimate, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.gap_se(), other.gap_se(), rtol=1e-9)


def test_many_groups_are_one_call_of_the_bound() -> None:
    model, x = linear_gaussian(), observations()
    calls: list[tuple[int, ...]] = []

    def bound(draws: Draws) -> Tensor:
        calls.append(tuple(draws.z.shape))
        return draws.log_w.mean(0)

    with torch.no_grad():
        draws = draw(model, x, 23, Fixed(torch.zeros(1, 1, 1, dtype=torch.float64)))
        grouped = GroupedBound(Of(bound, 3), B, lambda times: model.posterior(x.repeat(times, 1)))
        grouped.update(draws)
    assert calls == [(3, 7 * B, 3)]
    assert (grouped.moments.weights.count == 7).all()


class Labels:
    """Draws of integers, and what a bound of them should be."""

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(3)
        self.z = torch.from_numpy(generator.integers(0, 5, size=(count, B, 2)))
        self.log_p = torch.from_numpy(generator.normal(size=(3, count, B)))

    def draws(self) -> Draws:
        return Draws(self.z, *self.log_p)

    @staticmethod
    def bound(draws: Draws) -> Tensor:
        assert draws.z.dtype is torch.int64
        return draws.z.amax((0, 2)) + draws.log_w.mean(0)


@pytest.mark.parametrize("chunk", [4, 9, 40])
def test_integers_stay_integers_side_by_side(chunk: int) -> None:
    labels = Labels(40)
    grouped = GroupedBound(Of(labels.bound, 3), B, lambda times: Categorical(torch.ones(times * B, 2)))
    for start in range(0, 40, chunk):
        grouped.update(labels.draws().samples(start, min(40, start + chunk)))
    values = np.stack([labels.bound(labels.draws().samples(start, start + 3)) for start in range(0, 39, 3)])
    np.testing.assert_allclose(grouped.moments.mean(), values.mean(0), rtol=1e-13)
    assert (grouped.moments.weights.count == 13).all()


class Drawing:
    """A bound that adds numbers of its own to the first log-weight, and keeps them."""

    def __init__(self, samples_required: int) -> None:
        self.samples_required = samples_required
        self.seen: list[float] = []

    def __call__(self, draws: Draws) -> Tensor:
        assert draws.noise is not None
        own = draws.noise.normal(draws.log_w.shape[1:], dtype=torch.float64, device=draws.log_w.device)
        self.seen += own.tolist()
        return draws.log_w[0] + own


def one_pass(bounds: dict[str, Drawing], chunk_size: int = 7) -> dict[str, np.ndarray]:
    with torch.no_grad():
        keys, named = Importance(num_samples=41, chunk_size=chunk_size), Request(bounds=bounds).scored_bounds()
        encoder = EncoderPass(keys, linear_gaussian(), observations(), named)
        return Scores(encoder.run(Noise(2, "evaluate", 1).stream()), {}).flat()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_bound_that_draws_sees_new_numbers_for_every_group(size: int) -> None:
    for chunk_size in (1, 7, 41):
        bound = Drawing(size)
        columns = one_pass({"own": bound}, chunk_size)
        groups = 41 // size
        assert len(set(bound.seen)) == len(bound.seen) == groups * B
        # In order of the groups, however they are cut: the numbers of one stream.
        expected = Noise(2, "evaluate", 1).child("bound/own").stream().normal([groups, B], dtype=torch.float64)
        np.testing.assert_array_equal(np.array(bound.seen).reshape(groups, B), expected)
        with torch.no_grad():
            noise = Noise(2, "evaluate", 1).stream()
            log_w = draw(linear_gaussian(), observations(), 41, noise).log_w[: groups * size : size]
        np.testing.assert_allclose(columns["bounds/own"], (log_w + expected).mean(0), rtol=1e-11)


def test_numbers_of_a_bound_are_its_own() -> None:
    alone, plain = one_pass({"own": Drawing(3)}), one_pass({})
    beside = one_pass({"other": Drawing(2), "own": Drawing(3), "third": Drawing(1)})
    for name, column in plain.items():
        np.testing.assert_array_equal(column, alone[name], err_msg=name)
        np.testing.assert_array_equal(column, beside[name], err_msg=name)
    np.testing.assert_array_equal(alone["bounds/own"], beside["bounds/own"])
    one, two = Drawing(3), Drawing(3)
    one_pass({"own": one, "other": two})
    assert set(one.seen).isdisjoint(two.seen)


@pytest.mark.parametrize("size", [1, 3, 300, 2000])
@pytest.mark.parametrize("chunk", [1, 100, 700, 5000])
def test_the_tail_is_the_same_however_much_waits(size: int, chunk: int) -> None:
    log_w = np.random.default_rng(0).normal(size=(2600, B))
    log_w[::7, 1] = -math.inf
    tail = TailWeights(size, B)
    for start in range(0, len(log_w), chunk):
        tail.update(torch.from_numpy(log_w[start : start + chunk]))
        if start == 7 * chunk:
            tail.sorted()  # a look in between changes nothing
    np.testing.assert_array_equal(tail.sorted(), np.sort(log_w, axis=0)[-size:])


def alone(log_w: np.ndarray) -> WeightSummary:
    summary = WeightSummary(log_w.shape[1], len(log_w))
    summary.update(torch.from_numpy(log_w))
    return summary


ESTIMATES = ("log_mean_weight", "log_mean_weight_se", "effective_sample_size", "largest_share", "pareto_k")


@hypothesis.given(stream=streams(min_size=6), edges=cuts, offset=offsets)
@trials(60)
def test_a_summary_is_numpy_s_on_the_whole_array(
    stream: tuple[np.ndarray, np.ndarray], edges: list[int], offset: float
) -> None:
    log_w = stream[0] + offset
    log_w[2::5, 2] = -math.inf
    summary = WeightSummary(B, len(log_w))
    for piece in pieces(log_w, edges):
        if len(piece):
            summary.update(piece)
    weights = relative_weights(log_w)
    expected = scipy.special.logsumexp(log_w, axis=0) - math.log(len(log_w))
    assert summary.count.tolist() == [len(log_w)] * B
    np.testing.assert_allclose(summary.log_mean_weight(), expected, rtol=1e-13, atol=1e-11)
    np.testing.assert_allclose(summary.log_mean_weight_se(), se_of_mean(weights), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(summary.effective_sample_size(), len(log_w) ** 2 / (weights**2).sum(0), rtol=1e-9)
    np.testing.assert_allclose(summary.largest_share(), weights.max(0) / weights.sum(0), rtol=1e-10)


def test_rows_are_summarised_as_if_each_were_alone() -> None:
    generator = np.random.default_rng(1)
    counts = [3000, 40, 700, 10, 700]
    columns = [generator.standard_t(3, size=(count, 1)) - 50.0 * index for index, count in enumerate(counts)]
    columns[2][5] = -math.inf
    summary = WeightSummary(5, 3000)
    given = [0] * 5
    for rows, number in [([0, 1, 2, 3, 4], 10), ([4, 0, 2], 30), ([1], 30), ([2, 0, 4], 660), ([0], 2300)]:
        pieces_of = [columns[row][given[row] : given[row] + number] for row in rows]
        for row in rows:
            given[row] += number
        summary.update_rows(torch.from_numpy(np.concatenate(pieces_of, axis=1)), torch.tensor(rows))
    assert given == counts
    assert summary.count.tolist() == counts
    for row, column in enumerate(columns):
        single = alone(column)
        for estimate in ESTIMATES:
            found, expected = getattr(summary, estimate)()[row], getattr(single, estimate)()[0]
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=estimate)
        largest = np.sort(column, axis=0)[-(tail_size(len(column)) + 1) :]
        np.testing.assert_allclose(summary.pareto_k()[row], pareto_k(largest)[0], rtol=1e-10)
    assert summary.pareto_k().isnan().tolist() == [False, False, False, True, False]


def test_a_row_that_got_no_more_keeps_its_bits() -> None:
    log_w = np.random.default_rng(2).normal(size=(97, B))
    summary, before = WeightSummary(B, 400), alone(log_w)
    summary.update(torch.from_numpy(log_w))
    summary.update_rows(torch.full((300, 2), 40.0, dtype=torch.float64), torch.tensor([3, 1]))
    for estimate in ESTIMATES:
        found, expected = getattr(summary, estimate)(), getattr(before, estimate)()
        assert found[[0, 2]].tolist() == expected[[0, 2]].tolist(), estimate
    assert summary.count.tolist() == [97, 397, 97, 397]
    assert bool((summary.log_mean_weight()[[1, 3]] > 39).all())


def test_a_row_without_samples_has_no_shape_and_disturbs_none() -> None:
    summary = WeightSummary(3, 100)
    summary.update_rows(torch.randn(100, 1, dtype=torch.float64), torch.tensor([1]))
    assert summary.count.tolist() == [0, 100, 0]
    assert summary.pareto_k().isnan().tolist() == [True, False, True]
    assert summary.log_mean_weight().isfinite().tolist() == [False, True, False]


def test_what_is_no_weight_is_found_in_its_row_and_zeros_of_others_are_not_taken_over() -> None:
    broken = NonFinite(5)
    log_w = torch.zeros(6, 3, dtype=torch.float64)
    log_w[1, 0], log_w[4, 1], log_w[2, 2] = math.nan, math.inf, -math.inf
    broken.update_errors(log_w, torch.tensor([4, 0, 2]))
    assert broken.nan.tolist() == [False, False, False, False, True]
    assert broken.infinite.tolist() == [True, False, False, False, False]
    assert not broken.zero.any()
    whole = torch.zeros(2, 5, dtype=torch.float64)
    whole[0, 3], whole[1, 2] = -math.inf, math.nan
    broken.update(whole)
    broken.update_errors(torch.full((1, 5), -math.inf, dtype=torch.float64))
    assert broken.nan.tolist() == [False, False, True, False, True]
    assert broken.infinite.tolist() == [True, False, False, False, False]
    assert broken.zero.tolist() == [False, False, False, True, False]
