"""Laws of the arithmetic on log-weights: exact at any magnitude, and blind to nothing that is not finite."""

import math

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import strategies as st
from linear_gaussian_case import trials

from elbo_bench.numerics import log_mean_exp, negative_softplus_sum

log_weights = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-30, 30, width=32)
)


@hypothesis.given(log_w=log_weights, offset=st.sampled_from([0.0, -1e4, 1e4, 700.0]))
@trials(50)
def test_log_mean_exp_is_the_log_of_the_mean_weight(log_w: np.ndarray, offset: float) -> None:
    expected = scipy.special.logsumexp(log_w, axis=0) - np.log(len(log_w)) + offset
    found = log_mean_exp(torch.from_numpy(log_w + offset)).numpy()
    # The sum log_w + offset is itself rounded, to 1e-12 at 1e4.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


@hypothesis.given(log_w=log_weights)
@trials(50)
def test_log_mean_exp_lies_between_the_mean_and_the_largest(log_w: np.ndarray) -> None:
    found = log_mean_exp(torch.from_numpy(log_w)).numpy()
    assert (found >= log_w.mean(0) - 1e-12).all()
    assert (found <= log_w.max(0) + 1e-12).all()


def test_log_mean_exp_of_equal_weights_is_that_weight() -> None:
    np.testing.assert_allclose(log_mean_exp(torch.full((7, 4), -87.3, dtype=torch.float64)), -87.3, rtol=1e-15)


def test_log_mean_exp_averages_over_the_first_axis_only() -> None:
    log_w = torch.randn(7, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(log_mean_exp(log_w), np.log(np.exp(log_w.numpy()).mean(0)), rtol=1e-12)


def test_a_weight_of_zero_counts_in_the_mean_and_adds_nothing() -> None:
    log_w = torch.tensor([[0.5, -math.inf], [-math.inf, -math.inf], [1.5, -math.inf]], dtype=torch.float64)
    found = log_mean_exp(log_w)
    np.testing.assert_allclose(found[0], math.log((math.exp(0.5) + math.exp(1.5)) / 3), rtol=1e-14)
    assert found[1] == -math.inf


def test_nan_and_infinity_come_out_where_they_went_in() -> None:
    log_w = torch.zeros(5, 3, dtype=torch.float64)
    log_w[2, 0], log_w[4, 1] = math.nan, math.inf
    found = log_mean_exp(log_w)
    assert math.isnan(found[0])
    assert found[1] == math.inf
    assert found[2] == 0


def test_the_gradient_of_log_mean_exp_is_the_normalised_weights() -> None:
    log_w = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_w[3, 1] = -math.inf
    log_w.requires_grad_()
    log_mean_exp(log_w).sum().backward()
    np.testing.assert_allclose(log_w.grad, scipy.special.softmax(log_w.detach().numpy(), axis=0), atol=1e-15)


def test_negative_softplus_sum_is_the_log_probability_of_nothing_but_zeros() -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6
    expected = np.log(scipy.special.expit(-logits.numpy())).sum(-1)
    np.testing.assert_allclose(negative_softplus_sum(logits), expected, rtol=1e-12)


@pytest.mark.parametrize(("logit", "expected"), [(1e4, -1e4), (-1e4, 0.0), (800.0, -800.0), (0.0, -math.log(2))])
def test_negative_softplus_neither_overflows_nor_underflows(logit: float, expected: float) -> None:
    logits = torch.tensor([[logit, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(negative_softplus_sum(logits), [expected - math.log(2)], rtol=1e-14)


def test_negative_softplus_sum_passes_nan_on_to_its_row_alone() -> None:
    logits = torch.zeros(3, 2, dtype=torch.float64)
    logits[1, 0] = math.nan
    assert negative_softplus_sum(logits).isnan().tolist() == [False, True, False]
