"""Laws of Pareto k-hat: ArviZ's number, the right number on an exact tail, and none where there is none."""

import math

import numpy as np
import pytest
import scipy.stats
from arviz_stats.base import array_stats

from elbo_bench.evaluation.importance_sampling.pareto import pareto_k, tail_size


def largest(log_w: np.ndarray, size: int | None = None) -> np.ndarray:
    """The tail and its cut-off, as a stream of `[K, B]` would leave them."""
    return np.sort(log_w, axis=0)[-(size or tail_size(len(log_w))) - 1 :]


def pareto_log_weights(k: float, size: int, num_examples: int, seed: int = 0) -> np.ndarray:
    """Log-weights whose exceedances over any threshold are generalised Pareto of shape k."""
    generator = np.random.default_rng(seed)
    return np.log1p(scipy.stats.genpareto.rvs(k, scale=0.3, size=(size, num_examples), random_state=generator))


WEIGHTS = {
    "normal": lambda size: 0.5 * np.random.default_rng(1).normal(size=(size, 3)),
    "log-normal weights, heavy": lambda size: 4.0 * np.random.default_rng(2).normal(size=(size, 3)),
    "Pareto 0.2": lambda size: pareto_log_weights(0.2, size, 3),
    "Pareto 1.3": lambda size: pareto_log_weights(1.3, size, 3),
    "bounded weights": lambda size: np.log(np.random.default_rng(3).uniform(size=(size, 3))),
    "far off": lambda size: 5e3 + 2.0 * np.random.default_rng(4).normal(size=(size, 3)),
}


# Sizes at which ArviZ, which rounds the size of the tail down, takes the same tail.
@pytest.mark.parametrize("size", [25, 100, 225, 2500])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_k_hat_is_arviz_s(weights, size: int) -> None:
    log_w = weights(size)
    # It negates what it is given: it expects log-likelihoods, whose negatives are its log-weights.
    expected = [array_stats.psislw(-log_w[:, b])[1] for b in range(3)]
    np.testing.assert_allclose(pareto_k(largest(log_w)), expected, rtol=1e-8)


@pytest.mark.parametrize("k", [0.1, 0.4, 0.7, 1.0, 1.5])
def test_k_hat_is_the_shape_of_an_exact_pareto_tail(k: float) -> None:
    # The estimate has a standard deviation of (1 + k) / sqrt(M) about k, pulled to 1/2 with a weight of 10 in M + 10.
    size, tail, num_examples = 4000, 1000, 50
    found = pareto_k(largest(pareto_log_weights(k, size, num_examples), tail))
    pulled = (tail * k + 10 * 0.5) / (tail + 10)
    spread = (1 + k) / math.sqrt(tail)
    # Its own bias is of order 1/M, far below the six standard errors of a mean over 50 that are allowed.
    assert abs(found.mean() - pulled) < 6 * spread / math.sqrt(num_examples)
    assert found.std() == pytest.approx(spread, rel=0.6)
    assert abs(found - pulled).max() < 6 * spread


def test_k_hat_of_bounded_weights_is_negative() -> None:
    # Uniform weights: a generalised Pareto tail of shape -1.
    found = pareto_k(largest(np.log(np.random.default_rng(0).uniform(size=(4000, 20))), 1000))
    assert found.mean() == pytest.approx(-1 + 1.5 * 10 / 1010, abs=0.05)


def test_heavier_tails_have_a_larger_k_hat() -> None:
    normal = np.random.default_rng(0).normal(size=(2500, 40))
    by_scale = [pareto_k(largest(scale * normal)).mean() for scale in (0.2, 1.0, 3.0, 6.0)]
    assert by_scale == sorted(by_scale)
    assert by_scale[0] < 0.3
    assert by_scale[-1] > 1


@pytest.mark.parametrize("shift", [-1e4, 700.0, 1e4])
def test_a_factor_on_all_weights_leaves_k_hat(shift: float) -> None:
    log_w = 2 * np.random.default_rng(0).normal(size=(900, 4))
    np.testing.assert_allclose(pareto_k(largest(log_w + shift)), pareto_k(largest(log_w)), rtol=1e-8)


def test_each_example_has_a_tail_of_its_own() -> None:
    log_w = np.concatenate([WEIGHTS[name](400) for name in WEIGHTS], axis=1)
    alone = [pareto_k(largest(log_w[:, b : b + 1])).item() for b in range(log_w.shape[1])]
    np.testing.assert_allclose(pareto_k(largest(log_w)), alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(1, 1), (5, 1), (20, 4), (21, 5), (100, 20), (225, 45), (400, 60), (1000, 95), (5000, 213)],
)
def test_the_tail_is_a_fifth_of_few_and_three_roots_of_many(num_samples: int, expected: int) -> None:
    assert tail_size(num_samples) == expected


def test_fewer_than_five_weights_are_no_tail() -> None:
    log_w = np.random.default_rng(0).normal(size=(5, 3))
    assert np.isnan(pareto_k(np.sort(log_w, axis=0))).all()  # four and their cut-off
    assert np.isfinite(pareto_k(np.sort(np.random.default_rng(0).normal(size=(6, 3)), axis=0))).all()


def test_a_tail_without_spread_has_no_k_hat_and_says_so_without_a_warning() -> None:
    spread = np.sort(np.random.default_rng(0).normal(size=21))
    equal = np.full(21, 0.7)
    nothing = np.full(21, -math.inf)
    one = np.r_[nothing[1:], 0.0]
    tied = np.r_[np.full(12, spread[0]), spread[12:]]  # a lower quartile that lies on the cut-off
    negligible = np.r_[np.full(20, -2000.0) + np.arange(20), 0.0]  # all but one underflow
    unknown = np.r_[spread[:-1], math.nan]
    infinite = np.r_[spread[:-1], math.inf]
    found = pareto_k(np.stack([spread, equal, nothing, one, tied, negligible, unknown, infinite], 1))
    assert np.isfinite(found).tolist() == [True] + [False] * 7
    assert np.isnan(found[1:]).all()
