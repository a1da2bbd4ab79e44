"""Laws of the arrays that likelihoods are: normalised, equal to exact arithmetic, sampled from what is scored."""

import decimal
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from support.linear_gaussian_case import assert_mean
from torch import Tensor
from torch.distributions import Categorical, Independent

from elbo_bench.distributions import (
    BernoulliArray,
    CategoricalArray,
    ContinuousBernoulliArray,
    DiscretisedLogisticArray,
    DiscretisedLogisticMixtureArray,
    NormalArray,
)
from elbo_bench.distributions.value_array import ValueArray

K, B, EVENT, L, C = 5, 4, (2, 3), 17, 7

LOCS = (-1e6, -40.0, 0.0, 0.5, 7.3, 16.0, 22.0, 300.0, 1e6)
LOG_SCALES = (-12.0, -3.0, 0.0, 2.0, 12.0, 17.0, 30.0, 79.0)
NEAR_A_HALF = (0.0, 1e-300, 1e-12, 1e-7, 1e-4, 0.01, 0.051, 0.057, 0.2, 0.4999999, 0.5, 0.5000001, 0.7)
LOGITS = tuple(sorted({sign * size for sign in (-1, 1) for size in (*NEAR_A_HALF, 3.0, 40.0, 1000.0)}))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def grid(*axes: tuple[float, ...]) -> list[Tensor]:
    """Return every combination, each parameter as `[cases, 1]`: a batch of arrays of one value."""
    combinations = torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)
    return [column.unsqueeze(-1) for column in combinations.unbind(-1)]


def all_levels(num_levels: int) -> Tensor:
    """Return every array of one value, `[L, 1, 1]`."""
    return torch.arange(num_levels, dtype=torch.float64)[:, None, None]


# Each family from its parameters, which are of one shape bar the last axis.
FAMILIES: dict[str, Callable[..., ValueArray]] = {
    "normal": lambda p: NormalArray(p[..., 0], p[..., 1], 2),
    "continuous_bernoulli": lambda p: ContinuousBernoulliArray(4 * p[..., 0], 2),
    "discretised_logistic": lambda p: DiscretisedLogisticArray(8 + 6 * p[..., 0], p[..., 1], L, 2),
    "mixture": lambda p: DiscretisedLogisticMixtureArray(p[..., :2], 8 + 6 * p[..., 2:4], p[..., 4:6], L, event_dims=2),
    "categorical": lambda p: CategoricalArray(p, 2),
}
NUM_OUTPUTS = {"normal": 2, "continuous_bernoulli": 1, "discretised_logistic": 2, "mixture": 6, "categorical": L}
each_family = pytest.mark.parametrize("name", FAMILIES)
each_discrete_family = pytest.mark.parametrize("name", ["discretised_logistic", "mixture", "categorical"])


def raw(name: str, *lead: int, seed: int = 0) -> Tensor:
    return numbers(*lead, *EVENT, NUM_OUTPUTS[name], seed=seed)


def observed(name: str, *lead: int) -> Tensor:
    """Return arrays that the family takes, both ends among them."""
    uniform = torch.rand(*lead, *EVENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    if name == "normal":
        return 3 * uniform
    scaled = uniform if name == "continuous_bernoulli" else (uniform * L).floor()
    scaled.view(-1)[:2] = torch.tensor([0.0, 1.0 if name == "continuous_bernoulli" else L - 1])
    return scaled


# Normalised.


@pytest.mark.parametrize("num_levels", [2, 3, 17, 256])
def test_a_discretised_logistic_sums_to_one_wherever_its_mean_and_scale_are(num_levels: int) -> None:
    p = DiscretisedLogisticArray(*grid(LOCS, LOG_SCALES), num_levels, event_dims=1)
    log_p = p.log_prob(all_levels(num_levels))
    assert log_p.shape == (num_levels, len(LOCS) * len(LOG_SCALES))
    np.testing.assert_allclose(scipy.special.logsumexp(log_p.numpy(), axis=0), 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_scale", [-1e30, -200.0, -81.0, 81.0, 200.0, 1e30])
def test_a_scale_out_of_reach_does_no_harm(dtype, log_scale: float) -> None:
    loc = torch.tensor(LOCS, dtype=dtype)[:, None].requires_grad_()
    scale = torch.full_like(loc, log_scale).requires_grad_()
    p = DiscretisedLogisticArray(loc, scale, L, event_dims=1)
    log_p = p.log_prob(all_levels(L).to(dtype))
    np.testing.assert_allclose(torch.logsumexp(log_p, 0).detach(), 0, atol=1e-12 if dtype is torch.float64 else 1e-5)
    for gradient in torch.autograd.grad(log_p.sum(), [loc, scale]):
        assert gradient.isfinite().all()
    for parameters in (p, DiscretisedLogisticArray(loc, scale.detach().clamp(-80, 80), L, event_dims=1)):
        assert torch.equal(parameters.log_prob(all_levels(L)), log_p)
        assert torch.equal(parameters.mean, p.mean)
    assert p.mean.isfinite().all()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert p.support.check(p.sample((K,))).all()


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("size", [1.0, 800.0])
def test_a_mixture_sums_to_one_wherever_its_means_and_scales_are(num_levels: int, size: float) -> None:
    loc, log_scale = (each.view(-1, 1, 4) for each in grid(LOCS, LOG_SCALES))  # 72 components in 18 mixtures
    p = DiscretisedLogisticMixtureArray(size * numbers(*loc.shape), loc, log_scale, num_levels, event_dims=1)
    log_p = p.log_prob(all_levels(num_levels))
    assert log_p.shape == (num_levels, 18)
    np.testing.assert_allclose(scipy.special.logsumexp(log_p.numpy(), axis=0), 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 800.0])
def test_a_categorical_sums_to_one(num_levels: int, size: float) -> None:
    log_p = CategoricalArray(size * numbers(B, 1, num_levels) + 5, event_dims=1).log_prob(all_levels(num_levels))
    np.testing.assert_allclose(scipy.special.logsumexp(log_p.numpy(), axis=0), 0, rtol=0, atol=1e-12)


@each_discrete_family
def test_an_array_of_two_values_sums_to_one_over_all_pairs(name: str) -> None:
    parameters = raw(name, B)[:, :1, :2]
    pairs = torch.tensor(list(itertools.product(range(L), repeat=2)), dtype=torch.float64).view(-1, 1, 1, 2)
    log_p = FAMILIES[name](parameters).log_prob(pairs)
    assert log_p.shape == (L * L, B)
    np.testing.assert_allclose(scipy.special.logsumexp(log_p.numpy(), axis=0), 0, rtol=0, atol=1e-12)


def panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points and weights of a Gauss-Legendre rule of 20 points on each panel."""
    points, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    return ((edges[:-1, None] + half) + half * points).ravel(), (half * weights).ravel()


def test_a_continuous_bernoulli_integrates_to_one_near_a_half_and_far_from_it() -> None:
    towards_zero = np.concatenate([[0], 2.0 ** np.arange(-14, 0)])
    points, weights = panels(np.concatenate([towards_zero, 1 - towards_zero[-2::-1]]))
    p = ContinuousBernoulliArray(torch.tensor(LOGITS, dtype=torch.float64)[:, None], event_dims=1)
    density = p.log_prob(torch.from_numpy(points)[:, None, None]).exp()
    np.testing.assert_allclose(weights @ density.numpy(), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose((weights * points) @ density.numpy(), p.mean[:, 0], rtol=0, atol=1e-12)


def test_a_normal_array_integrates_to_one() -> None:
    loc, log_scale = grid((-3.0, 0.0, 100.0), (-6.0, 0.0, 5.0))
    steps = np.linspace(-12, 12, 241)  # the trapezoidal rule is exact to 1e-16 on a normal
    values = loc + log_scale.exp() * torch.from_numpy(steps)[:, None, None]
    density = NormalArray(loc, log_scale, event_dims=1).log_prob(values).exp()
    np.testing.assert_allclose(density.sum(0) * 0.1 * log_scale[:, 0].exp(), 1, atol=1e-12)


# Equal to references.


def exactly(function: Callable[[], decimal.Decimal]) -> float:
    with decimal.localcontext(decimal.Context(prec=300, Emin=-(10**9), Emax=10**9)):
        return float(function().ln())


def exact_level(value: int, loc: float, log_scale: float, num_levels: int) -> float:
    """Return a rounded logistic's log-probability by 300 decimal digits."""

    def mass() -> decimal.Decimal:
        scale = decimal.Decimal(log_scale).exp()

        def cdf(edge: float) -> decimal.Decimal:
            return 1 / (1 + ((decimal.Decimal(loc) - decimal.Decimal(edge)) / scale).exp())

        above = 1 if value == num_levels - 1 else cdf(value + 0.5)
        return above - (0 if value == 0 else cdf(value - 0.5))

    return exactly(mass)


@pytest.mark.parametrize("value", [0, 1, 7, 15, 16])
def test_a_discretised_logistic_s_probability_is_that_of_300_digits_in_its_tails_too(value: int) -> None:
    cases = [case for case in itertools.product(LOCS, LOG_SCALES) if (abs(case[0]) + L) * math.exp(-case[1]) < 600]
    loc, log_scale = torch.tensor(cases, dtype=torch.float64).unbind(-1)
    p = DiscretisedLogisticArray(loc[:, None], log_scale[:, None], L, event_dims=1)
    expected = [exact_level(value, *case, L) for case in cases]
    np.testing.assert_allclose(p.log_prob(torch.full((1,), float(value))), expected, rtol=1e-13, atol=1e-14)


def test_a_level_a_million_scales_away_has_its_log_probability() -> None:
    p = DiscretisedLogisticArray(*grid((-1e6, 1e6), (0.0,)), L, event_dims=1)
    expected = [-(1e6 + 7 - 0.5) + math.log1p(-math.exp(-1)), -(1e6 - 7 - 0.5) + math.log1p(-math.exp(-1))]
    np.testing.assert_allclose(p.log_prob(torch.full((1,), 7.0)), expected, rtol=1e-15)
    narrow = DiscretisedLogisticArray(*grid((7.25,), (-79.0, -20.0)), L, event_dims=1)
    expected = [-0.25 * math.exp(79), -0.25 * math.exp(20)]
    np.testing.assert_allclose(narrow.log_prob(torch.full((1,), 8.0)), expected, rtol=1e-14)


def test_a_discretised_logistic_is_a_difference_of_scipy_s_distribution_functions() -> None:
    parameters, x = raw("discretised_logistic", K, B), observed("discretised_logistic", B)
    upper, lower = np.where(x == L - 1, np.inf, x + 0.5), np.where(x == 0, -np.inf, x - 0.5)
    logistic = scipy.stats.logistic((8 + 6 * parameters[..., 0]).numpy(), parameters[..., 1].exp().numpy())
    expected = logistic.cdf(upper) - logistic.cdf(lower)
    found = FAMILIES["discretised_logistic"](parameters).log_prob_of_each(x).exp()
    assert found.shape == (K, B, *EVENT)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_a_mixture_is_the_log_of_a_weighted_sum() -> None:
    logits, loc, log_scale = 2 * numbers(K, B, *EVENT, C), 8 + 6 * numbers(K, B, *EVENT, C, seed=1), numbers(C, seed=2)
    x = observed("mixture", B)
    mixture = DiscretisedLogisticMixtureArray(logits, loc, log_scale.expand_as(loc), L, event_dims=2)
    mass = sum(
        scipy.special.softmax(logits.numpy(), -1)[..., c]
        * DiscretisedLogisticArray(loc[..., c], log_scale[c].expand(loc.shape[:-1]), L, 2)
        .log_prob_of_each(x)
        .exp()
        .numpy()
        for c in range(C)
    )
    np.testing.assert_allclose(mixture.log_prob(x), np.log(mass).sum((-1, -2)), rtol=1e-12)
    moved = DiscretisedLogisticMixtureArray(logits + 3, loc, log_scale.expand_as(loc), L, event_dims=2)
    np.testing.assert_allclose(moved.log_prob(x), mixture.log_prob(x), rtol=1e-12)


def test_a_categorical_array_is_torch_s() -> None:
    logits, x = 3 * raw("categorical", K, B), observed("categorical", B)
    expected = Independent(Categorical(logits=logits), 2).log_prob(x.expand(K, B, *EVENT))
    np.testing.assert_allclose(CategoricalArray(logits, 2).log_prob(x), expected, rtol=1e-13)
    assert torch.equal(CategoricalArray(logits, 2).log_prob(x.long()), CategoricalArray(logits, 2).log_prob(x))


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.3, 0.5, 1.0])
def test_a_continuous_bernoulli_s_density_is_that_of_300_digits(value: float) -> None:
    def density(logit: float) -> decimal.Decimal:
        exact, x = decimal.Decimal(logit), decimal.Decimal(value)
        return (exact * x).exp() * (exact / (exact.exp() - 1) if exact.copy_abs() > 1e-30 else 1)

    p = ContinuousBernoulliArray(torch.tensor(LOGITS, dtype=torch.float64)[:, None], event_dims=1)
    expected = [exactly(lambda logit=logit: density(logit)) for logit in LOGITS]
    found = p.log_prob(torch.tensor([value], dtype=torch.float64))
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=3e-15)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_a_continuous_bernoulli_s_gradient_is_value_minus_mean_near_a_half_too(dtype, error: float) -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64).to(dtype)[:, None].requires_grad_()
    ContinuousBernoulliArray(logits, event_dims=1).log_prob(torch.tensor([0.3], dtype=dtype)).sum().backward()
    exact = [
        float(1 / (1 - (-decimal.Decimal(logit)).exp()) - 1 / decimal.Decimal(logit)) if abs(logit) > 1e-9 else 0.5
        for logit in logits.detach()[:, 0].tolist()
    ]
    np.testing.assert_allclose(logits.grad[:, 0], 0.3 - np.array(exact), rtol=0, atol=error)
    mean = ContinuousBernoulliArray(logits.detach(), event_dims=1).mean[:, 0]
    np.testing.assert_allclose(mean, exact, rtol=0, atol=error)


def test_a_normal_array_keeps_its_constants() -> None:
    parameters, x = raw("normal", K, B), observed("normal", B)
    expected = scipy.stats.norm.logpdf(x, parameters[..., 0], parameters[..., 1].exp()).sum((-1, -2))
    np.testing.assert_allclose(FAMILIES["normal"](parameters).log_prob(x), expected, rtol=1e-12)
    at_the_mean = NormalArray(torch.zeros(1, 1), torch.full((1, 1), math.log(2.0)), event_dims=1)
    expected = -0.5 * math.log(2 * math.pi * 4)
    assert math.isclose(at_the_mean.log_prob(torch.zeros(1, 1)).item(), expected, rel_tol=1e-6)


def test_one_scale_for_all_values_is_a_copy_of_it_for_each() -> None:
    loc, x, log_scale = raw("normal", K, B)[..., 0], observed("normal", B), numbers(1, 1)
    shared, copied = NormalArray(loc, log_scale, 2), NormalArray(loc, log_scale.expand_as(loc).clone(), 2)
    np.testing.assert_allclose(shared.log_prob(x), copied.log_prob(x), rtol=1e-13)


# An array is its values.


@each_family
def test_an_array_factorises_into_its_values_in_their_places(name: str) -> None:
    parameters, x = raw(name, K, B), observed(name, B)
    p = FAMILIES[name](parameters)
    assert (p.batch_shape, p.event_shape) == ((K, B), EVENT)
    total = sum(
        FAMILIES[name](parameters[..., i : i + 1, j : j + 1, :]).log_prob(x[:, i : i + 1, j : j + 1])
        for i in range(2)
        for j in range(3)
    )
    np.testing.assert_allclose(p.log_prob(x), total, rtol=1e-12)
    rows = [[FAMILIES[name](parameters[k, b]).log_prob(x[b]).item() for b in range(B)] for k in range(K)]
    np.testing.assert_allclose(p.log_prob(x), rows, rtol=1e-12)
    assert (p.log_prob(x.flip(-1)) - p.log_prob(x)).abs().min() > 1e-3


@each_family
def test_an_array_of_another_shape_is_refused(name: str) -> None:
    x = observed(name, B)
    for p in (FAMILIES[name](raw(name, K, B)), BernoulliArray(raw(name, K, B)[..., 0], event_dims=2)):
        for wrong in (x.mT, x.flatten(1), x[:, :1], x[..., :1], x[0, 0]):
            with pytest.raises(ValueError, match=r"does not end with the event shape \(2, 3\)"):
                p.log_prob(wrong)
    with pytest.raises(ValueError, match="at least one dimension"):
        CategoricalArray(numbers(B, L), event_dims=0)


@each_family
def test_a_value_that_cannot_be_has_no_probability_and_nan_stays_nan(name: str) -> None:
    p = FAMILIES[name](raw(name, K, B))
    never = {"normal": [math.inf, -math.inf], "continuous_bernoulli": [-1e-9, 1 + 1e-9, math.inf]}
    for value in never.get(name, [-1.0, float(L), 0.5, 3.0001, math.inf, -math.inf]):
        x = observed(name, B)
        x[2, 1, 0] = value
        found = p.log_prob(x)
        assert (found[:, 2] == -math.inf).all()
        assert found[:, [0, 1, 3]].isfinite().all()
        assert not p.support.check(x)[2] or math.isinf(value)
    x = observed(name, B)
    x[1, 0, 2] = math.nan
    found = p.log_prob(x)
    assert found[:, 1].isnan().all()
    assert found[:, [0, 2, 3]].isfinite().all()


@each_family
def test_parameters_that_are_no_numbers_reach_the_density_and_raise_nothing(name: str) -> None:
    for place in range(NUM_OUTPUTS[name]):
        parameters = raw(name, B)
        parameters[2, 1, 1, place] = math.nan
        log_p = FAMILIES[name](parameters).log_prob(observed(name, B))
        assert log_p.isnan().tolist() == [False, False, True, False]


# Mean and samples.


@each_discrete_family
def test_the_mean_is_the_sum_of_level_times_probability(name: str) -> None:
    p = FAMILIES[name](3 * raw(name, B))
    levels = torch.arange(L, dtype=torch.float64)
    probability = p.log_prob_of_each(levels.view(L, 1, 1, 1).expand(L, 1, *EVENT)).exp()
    np.testing.assert_allclose(p.mean, torch.einsum("l,lbij->bij", levels, probability), rtol=1e-12, atol=1e-12)
    assert p.mean.shape == (B, *EVENT)


@each_family
def test_samples_follow_the_density(name: str) -> None:
    """False-fail 1e-8 a family, by exact binomial tails; an error of 0.025 in a share is found."""
    p = FAMILIES[name](raw(name, B))
    count = 40_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = p.sample((count,))
        torch.manual_seed(0)
        assert torch.equal(p.sample((count,)), x)
    assert x.shape == (count, B, *EVENT)
    assert x.dtype is torch.float64
    assert p.support.check(x).all()
    if name in ("normal", "continuous_bernoulli"):
        edges = torch.linspace(0, 1, 6, dtype=torch.float64) if name == "continuous_bernoulli" else numbers(6).sort()[0]
        points, weights = panels(edges.numpy())
        each = p.log_prob_of_each(torch.from_numpy(points).view(-1, 1, 1, 1).expand(-1, 1, *EVENT)).exp()
        shares = (each * torch.from_numpy(weights).view(-1, 1, 1, 1)).unflatten(0, (5, 20)).sum(1)
        found = torch.stack([((x > low) & (x <= high)).sum(0) for low, high in itertools.pairwise(edges)])
    else:
        levels = torch.arange(L, dtype=torch.float64)
        shares = p.log_prob_of_each(levels.view(-1, 1, 1, 1).expand(-1, 1, *EVENT)).exp()
        found = torch.stack([(x == level).sum(0) for level in levels])
    law = scipy.stats.binom(count, shares.numpy())
    least = np.minimum(law.cdf(found.numpy()), law.sf(found.numpy() - 1)).min()
    assert least > 1e-8 / 2 / found.numel()


@pytest.mark.parametrize("logit", [0.0, 1e-25, -1e-8, 1e-3])
def test_samples_of_a_continuous_bernoulli_near_a_half_are_uniform(logit: float) -> None:
    """False-fail 1e-8; a mean off by 0.01 is found."""
    for dtype in (torch.float32, torch.float64):
        p = ContinuousBernoulliArray(torch.full((3,), logit, dtype=dtype), event_dims=1)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            x = p.sample((40_000,))
            torch.manual_seed(1)
            uniform = torch.rand(40_000, 3, dtype=dtype)
        torch.testing.assert_close(x if logit <= 0 else 1 - x, uniform, rtol=0, atol=abs(logit) / 4 + 3e-7)
        assert x.std(0).sub(12**-0.5).abs().max() < 0.01
        assert_mean(x, np.full(3, 0.5 + logit / 12), detects=0.02)


@each_family
def test_samples_carry_no_gradient(name: str) -> None:
    p = FAMILIES[name](raw(name, B).requires_grad_())
    assert not p.has_rsample
    assert not p.sample().requires_grad
    assert p.sample().shape == (B, *EVENT)


# Gradients and precision.


@each_family
def test_gradients_and_curvatures_are_those_of_finite_differences(name: str) -> None:
    x = observed(name, 1)
    for size in (1.0, 3.0):
        parameters = (size * raw(name, 1, seed=3)[..., : NUM_OUTPUTS[name]]).requires_grad_()

        def log_prob(parameters: Tensor) -> Tensor:
            return FAMILIES[name](parameters).log_prob(x)

        assert torch.autograd.gradcheck(log_prob, parameters, rtol=1e-6)
        assert torch.autograd.gradgradcheck(log_prob, parameters, rtol=1e-5)


@pytest.mark.parametrize("lead", [(1,), (B,), (K, 1)])
def test_a_continuous_bernoulli_s_gradient_is_summed_over_what_was_broadcast(lead: tuple[int, ...]) -> None:
    logits, x = raw("continuous_bernoulli", *lead)[..., 0].requires_grad_(), observed("continuous_bernoulli", K, B)
    weights = numbers(K, B, seed=7)
    (weights * ContinuousBernoulliArray(logits, 2).log_prob(x)).sum().backward()
    copied = logits.detach().expand(K, B, *EVENT).clone().requires_grad_()
    (weights * ContinuousBernoulliArray(copied, 2).log_prob(x.requires_grad_())).sum().backward()
    np.testing.assert_allclose(logits.grad, copied.grad.sum_to_size(logits.shape), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(x.grad, weights[..., None, None] * logits.detach(), rtol=1e-13)


def in_float32(*parameters: Tensor) -> list[Tensor]:
    return [each.float().requires_grad_() for each in parameters]


TAILS = {
    "normal": lambda: (NormalArray, in_float32(*grid(LOCS, (-12.0, -3.0, 0.0, 12.0, 30.0)))),
    "continuous_bernoulli": lambda: (ContinuousBernoulliArray, in_float32(torch.tensor([*LOGITS, 1e6, -1e6])[:, None])),
    "discretised_logistic": lambda: (
        lambda loc, log_scale, dims: DiscretisedLogisticArray(loc, log_scale, L, dims),
        in_float32(*grid(LOCS, LOG_SCALES)),
    ),
    "mixture": lambda: (
        lambda logits, loc, log_scale, dims: DiscretisedLogisticMixtureArray(
            logits, loc, log_scale, L, event_dims=dims
        ),
        in_float32(100 * numbers(18, 1, 4), *(each.view(18, 1, 4) for each in grid(LOCS, LOG_SCALES))),
    ),
    "categorical": lambda: (CategoricalArray, in_float32(500 * numbers(B, 1, L))),
}


@each_family
def test_float32_is_close_to_float64_and_has_gradients_in_the_tails_too(name: str) -> None:
    """To 4e-6 of the log-probability, and 1e-6 nats, of the same parameters: 30 roundings."""
    family, parameters = TAILS[name]()
    exact = family(*(each.detach().double() for each in parameters), 1)
    ends = (0.0, 1.0) if name == "continuous_bernoulli" else (0.0, L - 1.0)
    for value in (*ends, *((0.25, 0.5) if name == "continuous_bernoulli" else (1.0, 8.0, 15.0))):
        x = torch.full((1,), value)
        found = family(*parameters, 1).log_prob(x)
        assert found.dtype is torch.float32
        np.testing.assert_allclose(found.detach(), exact.log_prob(x.double()), rtol=4e-6, atol=1e-6)
        for gradient in torch.autograd.grad(found.sum(), parameters):
            assert gradient.isfinite().all()
