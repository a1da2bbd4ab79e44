"""Laws of the distributions: normalised, equal to SciPy's and torch's, and transported as they say."""

import itertools
import math
import warnings

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from support.linear_gaussian_case import assert_mean
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from elbo_bench.distributions import (
    LOG_2_PI,
    BernoulliArray,
    DiagonalNormal,
    FullNormal,
    LowRankNormal,
    standard_normal,
)
from elbo_bench.draws import NoClosedFormError, closed_form_kl

K, B, D = 7, 4, 3


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def factors(*batch: int, seed: int = 1) -> Tensor:
    """Lower triangular factors whose diagonal differs from one."""
    raw = numbers(*batch, D, D, seed=seed)
    return raw.tril(-1) + (0.5 * raw.diagonal(dim1=-2, dim2=-1)).exp().diag_embed()


def diagonal() -> DiagonalNormal:
    return DiagonalNormal(numbers(B, D), (0.5 * numbers(B, D, seed=1)).exp())


def full() -> FullNormal:
    return FullNormal(numbers(B, D), factors(B))


RANK = 2


def low_rank_parameters() -> tuple[Tensor, Tensor, Tensor]:
    return numbers(B, D), numbers(B, D, RANK, seed=9), (0.5 * numbers(B, D, seed=1)).exp()


def low_rank() -> LowRankNormal:
    return LowRankNormal(*low_rank_parameters())


def covariances(distribution: DiagonalNormal | FullNormal | LowRankNormal) -> np.ndarray:
    if isinstance(distribution, LowRankNormal):
        _, factor, scale = (each.numpy() for each in low_rank_parameters())
        return np.stack([f @ f.T + np.diag(s**2) for f, s in zip(factor, scale, strict=True)])
    if isinstance(distribution, FullNormal):
        factor = distribution.scale_tril.numpy()
        return factor @ np.swapaxes(factor, -1, -2)
    return np.stack([np.diag(scale**2) for scale in distribution.base_dist.scale.numpy()])


normals = pytest.mark.parametrize("make", [diagonal, full, low_rank])


@normals
def test_a_normal_s_density_and_entropy_are_scipy_s(make) -> None:
    q, z = make(), numbers(K, B, D, seed=2)
    reference = [
        scipy.stats.multivariate_normal(mean, cov)
        for mean, cov in zip(numbers(B, D).numpy(), covariances(q), strict=True)
    ]
    expected = np.stack([each.logpdf(z[:, row].numpy()) for row, each in enumerate(reference)], 1)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-12)
    np.testing.assert_allclose(q.entropy(), [each.entropy() for each in reference], rtol=1e-12)
    assert (q.batch_shape, q.event_shape) == ((B,), (D,))


@normals
def test_transport_gives_the_mean_and_the_covariance_exactly(make) -> None:
    # 2 D points of mean 0 and covariance I: what comes out has q's own moments, with no Monte Carlo error.
    points = math.sqrt(D) * torch.eye(D, dtype=torch.float64)
    q = make()
    z = q.transport(torch.cat([points, -points])[:, None, :].expand(2 * D, B, D)).numpy()
    np.testing.assert_allclose(z.mean(0), numbers(B, D), atol=1e-14)
    centred = z - z.mean(0)
    np.testing.assert_allclose(np.einsum("kbi,kbj->bij", centred, centred) / (2 * D), covariances(q), atol=1e-14)


def test_transport_is_loc_plus_factor_times_noise() -> None:
    noise = numbers(K, B, D, seed=3)
    q = diagonal()
    assert torch.equal(q.transport(noise), q.base_dist.loc + q.base_dist.scale * noise)
    expected = full().loc.numpy() + np.einsum("bij,kbj->kbi", factors(B).numpy(), noise.numpy())
    np.testing.assert_allclose(full().transport(noise), expected, rtol=1e-14, atol=1e-15)


def test_transport_by_one_factor_for_the_whole_batch_is_that_by_a_copy_for_each() -> None:
    noise, loc = numbers(K, B, D, seed=3), numbers(B, D)
    shared, copied = FullNormal(loc, factors()), FullNormal(loc, factors().expand(B, D, D))
    np.testing.assert_allclose(shared.transport(noise), copied.transport(noise), rtol=1e-14)
    np.testing.assert_allclose(shared.log_prob(noise), copied.log_prob(noise), rtol=1e-14)


@normals
def test_transport_and_density_obey_the_change_of_variables(make) -> None:
    q, noise = make(), numbers(K, B, D, seed=3)
    jacobian = torch.func.jacrev(lambda eps: q.transport(eps.expand(B, D)))(noise[0, 0])
    log_det = torch.linalg.slogdet(jacobian).logabsdet
    expected = scipy.stats.norm.logpdf(noise.numpy()).sum(-1) - log_det.numpy()
    np.testing.assert_allclose(q.log_prob(q.transport(noise)), expected, rtol=1e-12)


@pytest.mark.parametrize("make", [diagonal, full])
def test_transport_lets_gradients_through_to_every_parameter(make) -> None:
    loc, scale = numbers(B, D).requires_grad_(), factors(B).requires_grad_()
    noise = numbers(K, B, D, seed=3)
    q = FullNormal(loc, scale) if make is full else DiagonalNormal(loc, scale.diagonal(dim1=-2, dim2=-1))
    q.transport(noise).sum().backward()
    np.testing.assert_allclose(loc.grad, K)
    columns = noise.sum(0).numpy()  # d z_i / d L_ij = eps_j
    expected = np.repeat(columns[:, None, :], D, 1)
    np.testing.assert_allclose(
        scale.grad.tril(), np.tril(expected) if make is full else np.eye(D) * expected, atol=1e-14
    )


def as_torchs_full(loc: Tensor, factor: Tensor, scale: Tensor) -> MultivariateNormal:
    return MultivariateNormal(loc, covariance_matrix=factor @ factor.mT + scale.square().diag_embed())


def test_a_low_rank_normal_s_density_and_its_gradient_are_those_of_the_full_one() -> None:
    ours, theirs = ([each.clone().requires_grad_() for each in low_rank_parameters()] for _ in range(2))
    z = [numbers(K, B, D, seed=2).requires_grad_() for _ in range(2)]
    found, expected = LowRankNormal(*ours).log_prob(z[0]), as_torchs_full(*theirs).log_prob(z[1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    weights = numbers(K, B, seed=7)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip([*ours, z[0]], [*theirs, z[1]], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-11, atol=1e-12)


def test_a_low_rank_normal_s_moments_are_its_covariance_s() -> None:
    q = low_rank()
    np.testing.assert_allclose(q.covariance_matrix, covariances(q), rtol=1e-14)
    np.testing.assert_allclose(q.variance, np.diagonal(covariances(q), axis1=1, axis2=2), rtol=1e-14)
    np.testing.assert_allclose(q.stddev.square(), q.variance, rtol=1e-14)
    np.testing.assert_allclose(q.log_det, np.linalg.slogdet(covariances(q))[1], rtol=1e-13)
    assert torch.equal(q.mean, numbers(B, D))


def test_a_low_rank_normal_s_transport_has_gradients_of_finite_differences() -> None:
    noise = numbers(2, B, D, seed=3)
    parameters = [each.requires_grad_() for each in low_rank_parameters()]
    assert torch.autograd.gradcheck(lambda *given: LowRankNormal(*given).transport(noise), parameters)
    q = LowRankNormal(*parameters)
    q.transport(noise).sum().backward()
    assert all((each.grad != 0).all() for each in parameters)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        drawn = q.rsample((K,))
        torch.manual_seed(5)
        assert torch.equal(drawn, q.transport(torch.randn(K, B, D, dtype=torch.float64)))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_low_rank_normal_may_have_any_rank_and_one_covariance_for_the_whole_batch(rank: int) -> None:
    loc, factor, scale = numbers(B, D), numbers(D, rank, seed=9), numbers(D, seed=1).exp()
    shared, z = LowRankNormal(loc, factor, scale), numbers(K, B, D, seed=2)
    copied = LowRankNormal(loc, factor.expand(B, D, rank), scale.expand(B, D))
    expected = as_torchs_full(loc, factor, scale)
    for q in (shared, copied, LowRankNormal(loc[:1], factor, scale).expand(torch.Size([B]))):
        assert (q.batch_shape, q.event_shape) == ((B,), (D,))
        assert q.log_det.shape == q.entropy().shape == (B,)
        np.testing.assert_allclose(q.entropy(), expected.entropy(), rtol=1e-12)
    np.testing.assert_allclose(shared.log_prob(z), expected.log_prob(z), rtol=1e-12)
    np.testing.assert_allclose(shared.transport(z), copied.transport(z), rtol=1e-13)
    assert kl_divergence(shared, standard_normal(D, like=loc)).shape == (B,)


def test_a_low_rank_normal_keeps_its_digits_in_float32_where_its_directions_are_long() -> None:
    # The difference of squares of Woodbury's identity would be 1e-7 of 1e8, and of any sign.
    loc, factor, scale = (each.float() for each in low_rank_parameters())
    q = LowRankNormal(loc, 1e4 * factor, scale)
    exact = LowRankNormal(loc.double(), 1e4 * factor.double(), scale.double())
    noise = numbers(K, B, D, seed=3)
    z = exact.transport(noise).float()
    expected = exact.log_prob(z.double())
    assert (q.log_prob(z) - expected).abs().max() < 0.1
    assert torch.isfinite(expected).all()


def test_kl_of_a_low_rank_normal_from_a_diagonal_one_is_that_of_the_full_one() -> None:
    parameters = low_rank_parameters()
    p = DiagonalNormal(numbers(D, seed=5), (0.4 * numbers(D, seed=6)).exp())
    expected = kl_divergence(as_torchs_full(*parameters), p)
    assert expected.shape == (B,)
    np.testing.assert_allclose(closed_form_kl(LowRankNormal(*parameters), p), expected, rtol=1e-12)
    torchs = LowRankMultivariateNormal(parameters[0], parameters[1], parameters[2].square())
    np.testing.assert_allclose(closed_form_kl(torchs, p), expected, rtol=1e-12)
    with pytest.raises(NoClosedFormError, match="LowRankNormal and Independent Laplace"):
        closed_form_kl(low_rank(), Independent(Laplace(numbers(D), numbers(D).exp()), 1))


def test_the_standard_normal_takes_after_what_it_is_like() -> None:
    for dtype in (torch.float32, torch.float64):
        p = standard_normal(D, like=torch.ones(2, dtype=dtype))
        z = numbers(K, B, D).to(dtype)
        np.testing.assert_allclose(p.log_prob(z), scipy.stats.norm.logpdf(z.numpy()).sum(-1), rtol=1e-5)
        assert p.log_prob(z).dtype is dtype
        assert (p.batch_shape, p.event_shape) == ((), (D,))


def test_the_constant_is_the_log_of_two_pi() -> None:
    assert math.isclose(LOG_2_PI, -2 * scipy.stats.norm.logpdf(0), rel_tol=1e-15)


@pytest.mark.parametrize("scale", [1.0, 8.0, 300.0])
def test_a_bernoulli_array_sums_to_one_over_all_arrays(scale: float) -> None:
    logits = scale * numbers(B, 2, 3)
    arrays = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64).view(64, 1, 2, 3)
    log_p = BernoulliArray(logits, event_dims=2).log_prob(arrays)
    assert log_p.shape == (64, B)
    np.testing.assert_allclose(scipy.special.logsumexp(log_p.numpy(), axis=0), 0, atol=1e-8)


def test_a_bernoulli_array_s_density_is_torch_s_and_scipy_s() -> None:
    logits, x = 3 * numbers(K, B, 2, 3), (numbers(B, 2, 3, seed=4) > 0).double()
    found = BernoulliArray(logits, event_dims=2).log_prob(x)
    expected = Independent(Bernoulli(logits=logits), 2).log_prob(x.expand(K, B, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    by_scipy = scipy.stats.bernoulli.logpmf(x.numpy(), scipy.special.expit(logits.numpy())).sum((-1, -2))
    np.testing.assert_allclose(found, by_scipy, rtol=1e-10)


def test_a_bernoulli_array_s_density_survives_logits_that_round_a_probability_to_one() -> None:
    logits = torch.tensor([[800.0, -800.0]], dtype=torch.float64)
    for x, expected in [([1.0, 0.0], 0.0), ([0.0, 0.0], -800.0), ([0.0, 1.0], -1600.0)]:
        assert BernoulliArray(logits, event_dims=1).log_prob(torch.tensor([x], dtype=torch.float64)).item() == expected


def test_a_bernoulli_array_s_gradient_is_value_minus_probability() -> None:
    logits, x = (3 * numbers(B, 2, 3)).requires_grad_(), (numbers(B, 2, 3, seed=4) > 0).double()
    BernoulliArray(logits, event_dims=2).log_prob(x).sum().backward()
    np.testing.assert_allclose(logits.grad, x.numpy() - scipy.special.expit(logits.detach().numpy()), atol=1e-14)


def test_a_bernoulli_array_s_samples_have_its_mean() -> None:
    p = BernoulliArray(numbers(B, 2, 3), event_dims=2)
    assert (p.batch_shape, p.event_shape) == ((B,), (2, 3))
    np.testing.assert_allclose(p.mean, scipy.special.expit(numbers(B, 2, 3).numpy()), rtol=1e-14)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = p.sample((20_000,))
    assert x.shape == (20_000, B, 2, 3)
    assert x.dtype is torch.float64
    assert p.support.check(x).all()
    assert not p.support.check(0.5 * x[:, :1] + 0.25).any()
    assert_mean(x, p.mean, detects=0.05)


def test_a_bernoulli_array_refuses_an_array_whose_axes_are_swapped() -> None:
    p, x = BernoulliArray(numbers(B, 2, 3), event_dims=2), torch.ones(B, 2, 3, dtype=torch.float64)
    for score in (p.log_prob, p.cross_log_prob):
        assert score(x).isfinite().all()
        with pytest.raises(ValueError, match=r"\(4, 3, 2\) does not end with the event shape \(2, 3\)"):
            score(x.mT)


def test_a_bernoulli_array_has_no_pathwise_gradient() -> None:
    p = BernoulliArray(numbers(B, 2).requires_grad_(), event_dims=1)
    assert not p.has_rsample
    assert not p.sample((K,)).requires_grad


def test_kl_of_full_from_diagonal_and_its_gradient_are_torch_s_between_two_full_ones() -> None:
    def parameters() -> list[Tensor]:
        values = [numbers(B, D), factors(B), numbers(D, seed=5), (0.4 * numbers(D, seed=6)).exp()]
        return [value.clone().requires_grad_() for value in values]

    ours, reference = parameters(), parameters()
    found = kl_divergence(FullNormal(*ours[:2]), DiagonalNormal(*ours[2:]))
    p_as_full = MultivariateNormal(reference[2], scale_tril=reference[3].diag())
    expected = kl_divergence(MultivariateNormal(reference[0], scale_tril=reference[1]), p_as_full)
    assert found.shape == (B,)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    weights = numbers(B, seed=7)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, theirs in zip(ours, reference, strict=True):
        # The upper triangle of a factor is no parameter.
        np.testing.assert_allclose(mine.grad.tril() if mine.dim() == 3 else mine.grad, theirs.grad, atol=1e-12)


def test_kl_of_full_from_diagonal_is_zero_between_equals_and_positive_elsewhere() -> None:
    p = diagonal()
    equal = FullNormal(p.base_dist.loc, p.base_dist.scale.diag_embed())
    np.testing.assert_allclose(kl_divergence(equal, p), 0, atol=1e-14)
    assert (kl_divergence(full(), p) > 0.01).all()


@pytest.mark.parametrize("make", [full, low_rank])
def test_kl_from_diagonal_is_the_mean_log_ratio(make) -> None:
    q, p = make(), standard_normal(D, like=numbers(1))
    z = q.transport(numbers(40_000, B, D, seed=8))
    assert_mean(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p), detects=0.3)


def test_kl_of_full_from_diagonal_is_refused_where_it_would_be_another_formula() -> None:
    laplace = Independent(Laplace(numbers(D), numbers(D).exp()), 1)
    with pytest.raises(NoClosedFormError, match="FullNormal and Independent Laplace"):
        closed_form_kl(full(), laplace)
    matrix = Independent(Normal(numbers(2, D), numbers(2, D).exp()), 2)
    with pytest.raises(NoClosedFormError):
        closed_form_kl(full(), matrix)


def test_kl_between_diagonal_normals_is_the_textbook_s() -> None:
    q = diagonal()
    loc, scale = q.base_dist.loc.numpy(), q.base_dist.scale.numpy()
    expected = 0.5 * (scale**2 + loc**2 - 1 - 2 * np.log(scale)).sum(-1)
    np.testing.assert_allclose(kl_divergence(q, standard_normal(D, like=numbers(1))), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("part", "bad"), [("loc", math.nan), ("loc", math.inf), ("scale", math.nan), ("scale", math.inf), ("scale", -1.0)]
)
def test_parameters_that_are_no_numbers_reach_the_density_and_raise_nothing(part: str, bad: float) -> None:
    loc, scale, factor = numbers(B, D), numbers(B, D).exp(), factors(B)
    if part == "loc":
        loc[2, 1] = bad
    else:
        scale[2, 1] = factor[2, 1, 1] = bad
    z = numbers(K, B, D, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directions = numbers(B, D, RANK)
        for q in (DiagonalNormal(loc, scale), FullNormal(loc, factor), LowRankNormal(loc, directions, scale)):
            finite = q.log_prob(z).isfinite()
            assert finite[:, [0, 1, 3]].all()
            assert not finite[:, 2].any()
            kl_is_finite = closed_form_kl(q, standard_normal(D, like=z)).isfinite()
            assert kl_is_finite[[0, 1, 3]].all()
            assert bad == -1.0 or not kl_is_finite[2]  # torch squares a scale


def test_a_covariance_that_float32_cannot_factorise_is_no_number_and_not_a_wrong_one() -> None:
    loc, factor, scale = (each.float() for each in low_rank_parameters())
    factor[2] = 1e5  # the same direction twice, so long that the identity is lost beside it
    q = LowRankNormal(loc, factor, scale)
    for found in (q.log_prob(loc), q.entropy(), q.transport(loc).sum(-1)):
        assert found.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_directions_that_are_no_numbers_reach_the_density_and_raise_nothing(bad: float) -> None:
    loc, factor, scale = low_rank_parameters()
    factor[2, 1, 0] = bad
    q = LowRankNormal(loc, factor, scale)
    z = q.transport(numbers(K, B, D, seed=2))
    for found in (q.log_prob(numbers(K, B, D)).mT, closed_form_kl(q, standard_normal(D, like=z)), z.transpose(0, 1)):
        assert found[[0, 1, 3]].isfinite().all()
        assert not found[2].isfinite().any()


def test_logits_that_are_no_numbers_reach_the_density_and_raise_nothing() -> None:
    logits = numbers(B, 2, 3)
    logits[2, 1, 1] = math.nan
    log_p = BernoulliArray(logits, event_dims=2).log_prob(torch.ones(B, 2, 3, dtype=torch.float64))
    assert log_p.isnan().tolist() == [False, False, True, False]


def test_a_diagonal_normal_s_density_and_its_gradient_are_torch_s() -> None:
    ours, theirs = (
        [tensor.requires_grad_() for tensor in (numbers(B, D), numbers(B, D, seed=1).exp(), numbers(K, B, D, seed=2))]
        for _ in range(2)
    )
    found = DiagonalNormal(*ours[:2]).log_prob(ours[2])
    expected = Independent(Normal(*theirs[:2]), 1).log_prob(theirs[2])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    weights = numbers(K, B, seed=7)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-13)


def test_a_bernoulli_array_takes_zeros_and_ones_of_any_kind_and_infinite_logits() -> None:
    logits = numbers(B, 2, 3).float()
    logits[0, 0, 0], logits[0, 1, 1] = math.inf, -math.inf
    x = numbers(B, 2, 3, seed=4) > 0
    x[0, 0, 0], x[0, 1, 1] = True, False
    p = BernoulliArray(logits, event_dims=2)
    expected = p.log_prob(x.double())
    assert expected.isfinite().all()
    for kind in (torch.bool, torch.uint8, torch.int64, torch.float32):
        assert torch.equal(p.log_prob(x.to(kind)), expected)
    x[0, 0, 0] = False
    assert p.log_prob(x.float())[0] == -math.inf
    torch.testing.assert_close(
        BernoulliArray(logits.requires_grad_(), 2).log_prob(x.float()), p.log_prob(x.float()).detach()
    )
