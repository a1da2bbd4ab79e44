"""Laws of the arithmetic on log-weights: exact at any magnitude, and blind to nothing that is not finite."""

import math

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import strategies as st
from support.linear_gaussian_case import trials

from elbo_bench import numerics
from elbo_bench.numerics import log_mean_exp, log_sigmoid_sum, negative_softplus_sum

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


def log_sigmoids(signed: np.ndarray) -> np.ndarray:
    """Return the sum of log sigmoid by SciPy, in float64."""
    return scipy.special.log_expit(signed.astype(np.float64)).sum(-1)


def signs(*shape: int) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(3)) > 0).float() * 2 - 1


# Fewer than a group, one group, a group and a bit, MNIST; magnitudes at which no, some and all products of a group are
# too small for a float32.
@pytest.mark.parametrize("num_logits", [1, 5, 63, 64, 65, 784])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 10.0, 100.0])
def test_log_sigmoid_sum_without_a_gradient_is_scipy_s(num_logits: int, scale: float) -> None:
    logits = torch.randn(7, 4, num_logits, generator=torch.Generator().manual_seed(0)) * scale
    sign = signs(4, num_logits)
    expected = log_sigmoids((logits * sign).numpy())
    found = log_sigmoid_sum(logits, sign)
    assert found.dtype is torch.float32
    # Each logit rounds by 3e-8 at most, the sums of them and of their groups by a few units in the last place.
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=num_logits * 3e-8 + 1e-6)


def test_log_sigmoid_sum_rounds_no_more_without_a_gradient_than_with_one() -> None:
    logits = torch.randn(500, 784, generator=torch.Generator().manual_seed(0)) * 4 - 3
    sign = torch.where(torch.rand(784, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(logits), 1.0, -1.0)
    exact = log_sigmoids((logits * sign).numpy())
    fast = log_sigmoid_sum(logits, sign).double().numpy()
    plain = log_sigmoid_sum(logits.requires_grad_(), sign).detach().double().numpy()
    assert np.abs(fast - exact).max() < 5e-5
    assert np.abs(fast - exact).mean() <= 1.5 * np.abs(plain - exact).mean()
    assert abs(np.mean(fast - exact)) < 2e-6


def test_log_sigmoid_sum_has_the_gradient_of_a_bernoulli() -> None:
    logits = torch.randn(7, 4, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    sign = signs(4, 65).double()
    log_sigmoid_sum(logits.requires_grad_(), sign).sum().backward()
    expected = sign.numpy() * scipy.special.expit(-(logits.detach() * sign).numpy())
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("signed", "expected"),
    [
        ([0.0, 0.0], -2 * math.log(2)),
        ([50.0, 50.0], -2 * math.exp(-50)),
        ([-50.0, 50.0], -50.0),
        ([-1e4, 0.0], -1e4 - math.log(2)),
        ([1e4, 1e4], 0.0),
        ([math.inf, 0.0], -math.log(2)),
        ([-math.inf, 0.0], -math.inf),
        ([-math.inf, math.nan], math.nan),
        ([math.nan, 1e4], math.nan),
    ],
)
def test_log_sigmoid_sum_of_extreme_logits(
    signed: list[float], expected: float, grad: bool, dtype: torch.dtype
) -> None:
    neighbour = [1.0, -2.0]
    logits = torch.tensor([signed, neighbour], dtype=dtype)
    for sign in (1.0, -1.0):
        found = log_sigmoid_sum((logits * sign).requires_grad_(grad), torch.full((2,), sign, dtype=dtype)).detach()
        tolerance = 1e-7 if dtype is torch.float32 else 1e-15
        np.testing.assert_allclose(found[0], expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(found[1], log_sigmoids(np.array(neighbour)), rtol=4 * tolerance)


def test_log_sigmoid_sum_of_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(9, 4, 70, generator=torch.Generator().manual_seed(0)) * 2
    logits[2, 1] *= 100  # products too small for a float32
    logits[5, 3, 0] = math.nan
    whole = log_sigmoid_sum(logits, signs(4, 70))
    monkeypatch.setattr(numerics, "_SLICE", 4 * 70 * 2)
    torch.testing.assert_close(log_sigmoid_sum(logits, signs(4, 70)), whole, rtol=0, atol=0, equal_nan=True)
    alone = torch.stack(
        [torch.stack([log_sigmoid_sum(row, by) for row, by in zip(each, signs(4, 70), strict=True)]) for each in logits]
    )
    torch.testing.assert_close(alone, whole, rtol=0, atol=0, equal_nan=True)


def test_log_sigmoid_sum_broadcasts_and_takes_nothing() -> None:
    logits, sign = torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(0)), signs(2, 4, 1, 5)
    found = log_sigmoid_sum(logits, sign[:, :3])
    assert found.shape == (2, 3, 1)
    np.testing.assert_allclose(found, log_sigmoids((logits * sign[:, :3]).numpy()), rtol=1e-6)
    assert log_sigmoid_sum(torch.zeros(0, 4, 5), signs(4, 5)).shape == (0, 4)
    assert log_sigmoid_sum(torch.zeros(3, 0), signs(0)).tolist() == [0, 0, 0]


def test_log_sigmoid_sum_leaves_what_it_is_given_alone() -> None:
    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(0)) * 50
    before = logits.clone()
    with torch.inference_mode():
        log_sigmoid_sum(logits, signs(70))
        negative_softplus_sum(logits)
    assert torch.equal(logits, before)


def test_negative_softplus_sum_in_float32_is_that_in_float64() -> None:
    logits = torch.randn(7, 784, generator=torch.Generator().manual_seed(0)) * 5
    np.testing.assert_allclose(negative_softplus_sum(logits), negative_softplus_sum(logits.double()), rtol=3e-7)


def test_a_sure_sign_loses_no_digit_in_float64() -> None:
    # torch's own softplus leaves out exp(-l) from 20 on: 1e-9 nats a logit.
    for logit in (19.0, 21.0, 25.0, 30.0):
        found = log_sigmoid_sum(torch.tensor([-logit], dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        assert found.item() == pytest.approx(-(logit + math.log1p(math.exp(-logit))), rel=1e-15, abs=0)
        assert found.item() != -logit
