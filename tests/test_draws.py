"""Laws of the contract: what the log-weights are, where their gradients flow, and what has no closed form."""

import dataclasses
import itertools
import math

import hypothesis
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import strategies as st
from support.linear_gaussian_case import (
    MU,
    SIGMA,
    B,
    D,
    Fixed,
    K,
    L,
    Replicas,
    W,
    X,
    assert_mean,
    exact_log_p_x,
    exact_posterior,
    linear_gaussian,
    observations,
    trials,
)
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    StickBreakingTransform,
    TanhTransform,
    TransformedDistribution,
)

from elbo_bench.distributions import BernoulliArray, DiagonalNormal, FullNormal
from elbo_bench.draws import (
    Draws,
    NoClosedFormError,
    NotReparameterisableError,
    concatenate,
    draw,
    sample,
    score,
)
from elbo_bench.noise import Noise

NOISE = Noise(0, "latent", 3)
covariances = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def case(covariance: str = "diagonal", **options) -> Draws:
    return draw(linear_gaussian(covariance), observations(), K, NOISE, **options)


def leaf_posterior(kind: str = "off", seed: int = 1) -> tuple[Tensor, Tensor, DiagonalNormal | FullNormal]:
    """A posterior over B examples whose mean and factor are leaves."""
    mean, covariance = exact_posterior()
    loc = torch.from_numpy(mean).clone()
    factor = torch.from_numpy(np.linalg.cholesky(covariance)).expand(B, L, L).clone()
    if kind == "off":
        generator = torch.Generator().manual_seed(seed)
        loc += 0.2 * torch.randn(B, L, dtype=torch.float64, generator=generator)
        factor *= 1.2
    loc.requires_grad_()
    factor.requires_grad_()
    return loc, factor, FullNormal(loc, factor)


def log_joint_gradient(z: np.ndarray) -> np.ndarray:
    """The gradient of log p(x, z) in z, by hand."""
    return (X - MU - z @ W.T) @ W / SIGMA**2 - z


def log_q_gradient(z: np.ndarray, loc: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The gradient of log q(z|x) in z, by hand."""
    precision = np.linalg.inv(factor @ np.swapaxes(factor, -1, -2))
    return -np.einsum("bij,kbj->kbi", precision, z - loc)


def transformed(base: Distribution, *, cache_size: int = 0) -> TransformedDistribution:
    return TransformedDistribution(base, [TanhTransform(cache_size=cache_size)])


def mixture(*batch: int) -> MixtureSameFamily:
    """A two-component mixture over L dimensions: it can be sampled, without a gradient."""
    loc = torch.arange(2.0, dtype=torch.float64)[:, None].expand(*batch, 2, L)
    weights = torch.ones(*batch, 2, dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), Independent(Normal(loc, torch.ones_like(loc)), 1))


@covariances
def test_the_three_log_densities_are_scipy_s(covariance: str) -> None:
    draws, model = case(covariance), linear_gaussian(covariance)
    z = draws.z.detach().numpy()
    assert z.shape == (K, B, L)
    by_prior = scipy.stats.norm.logpdf(z).sum(-1)
    by_likelihood = scipy.stats.norm.logpdf(X, z @ W.T + MU, SIGMA).sum(-1)
    loc = X @ model.encoder.weight.detach().numpy().T + model.encoder.bias.detach().numpy()
    raw = model.raw_scale.detach().numpy()
    factor = np.tril(raw, -1) + np.diag(np.exp(np.diag(raw))) if covariance == "full" else np.diag(np.exp(raw))
    q = scipy.stats.multivariate_normal(np.zeros(L), factor @ factor.T)
    np.testing.assert_allclose(draws.log_p_z.detach(), by_prior, rtol=1e-12)
    np.testing.assert_allclose(draws.log_p_x_given_z.detach(), by_likelihood, rtol=1e-12)
    np.testing.assert_allclose(draws.log_q_z_given_x.detach(), q.logpdf(z - loc), rtol=1e-10)
    np.testing.assert_allclose(draws.log_w.detach(), by_likelihood + by_prior - q.logpdf(z - loc), rtol=1e-10)


@covariances
def test_z_is_the_noise_of_its_place_transported(covariance: str) -> None:
    eps = NOISE.normal((K, B, L), dtype=torch.float64)
    posterior = linear_gaussian(covariance).posterior(observations())
    assert torch.equal(case(covariance).z, posterior.transport(eps))


@covariances
def test_what_log_w_lacks_is_the_log_ratio_of_q_to_the_posterior(covariance: str) -> None:
    draws = case(covariance)
    mean, cov = exact_posterior()
    z = draws.z.detach().numpy()
    log_posterior = scipy.stats.multivariate_normal(np.zeros(L), cov).logpdf(z - mean)
    gap = exact_log_p_x() - draws.log_w.detach().numpy()
    np.testing.assert_allclose(gap, draws.log_q_z_given_x.detach().numpy() - log_posterior, rtol=0, atol=1e-9)
    assert np.abs(gap).max() > 0.1


@covariances
def test_the_mean_weight_is_p_of_x(covariance: str) -> None:
    model = linear_gaussian(covariance)
    with torch.no_grad():
        model.raw_scale += 0.5 * (torch.eye(L) if covariance == "full" else torch.ones(L))  # tails wider than p's
        log_w = draw(model, observations(), 40_000, NOISE).log_w
    assert_mean(np.exp(log_w.numpy() - exact_log_p_x()), 1, detects=0.2)


@pytest.mark.parametrize("kind", ["off", "exact"])
def test_path_log_w_has_the_value_of_log_w_and_its_gradient_less_the_score(kind: str) -> None:
    loc, factor, posterior = leaf_posterior(kind)
    draws = draw(linear_gaussian(), observations(), K, NOISE, posterior=posterior)
    assert torch.equal(draws.path_log_w, draws.log_w)
    weights = torch.from_numpy(np.random.default_rng(0).normal(size=(K, B)))
    found = torch.autograd.grad((draws.path_log_w * weights).sum(), [loc, factor])
    z, eps = draws.z.detach().numpy(), NOISE.normal((K, B, L), dtype=torch.float64).numpy()
    by_z = log_joint_gradient(z) - log_q_gradient(z, loc.detach().numpy(), factor.detach().numpy())
    # z = loc + L eps, so the chain rule leaves the gradient in z, and its products with eps.
    np.testing.assert_allclose(found[0], np.einsum("kb,kbi->bi", weights, by_z), atol=1e-9)
    np.testing.assert_allclose(found[1], np.einsum("kb,kbi,kbj->bij", weights, by_z, eps), atol=1e-9)


def test_at_the_posterior_the_path_gradient_of_each_sample_is_zero_and_the_plain_one_is_not() -> None:
    for form, zero in [("path_log_w", True), ("log_w", False)]:
        loc, factor, posterior = leaf_posterior("exact")
        draws = draw(linear_gaussian(), observations(), 1, NOISE, posterior=posterior)
        gradients = torch.autograd.grad(getattr(draws, form).sum(), [loc, factor])
        # Rows are independent: each is the gradient of one sample.
        sizes = torch.cat([each.flatten(1) for each in gradients], 1).abs()
        assert (sizes.amax(1) < 1e-9).all() if zero else (sizes.amax(1) > 0.1).all()


def test_the_path_form_leaves_the_gradients_of_decoder_and_prior_alone() -> None:
    model = linear_gaussian()
    parameters = [model.weight, model.mean, model.log_noise_std]
    gradients = {}
    for form in ("log_w", "path_log_w"):
        draws = draw(model, observations(), K, NOISE)
        gradients[form] = torch.autograd.grad(getattr(draws, form).sum(), parameters)
    for plain, path in zip(*gradients.values(), strict=True):
        torch.testing.assert_close(plain, path, rtol=1e-12, atol=0)
        assert plain.abs().max() > 0.1


@pytest.mark.parametrize("factor_on_z", [0.0, 1.0, -2.5])
def test_a_hook_on_z_scales_all_of_the_gradient_that_flows_through_z(factor_on_z: float) -> None:
    loc, factor, posterior = leaf_posterior()
    draws = draw(linear_gaussian(), observations(), K, NOISE, posterior=posterior)
    # DReG's use: a factor of its own for each sample.
    scale = factor_on_z * torch.linspace(0.5, 2, K * B, dtype=torch.float64).view(K, B, 1)
    draws.z.register_hook(lambda gradient: gradient * scale)
    (found,) = torch.autograd.grad(draws.log_w.sum(), [loc])
    z, m, c = draws.z.detach().numpy(), loc.detach().numpy(), factor.detach().numpy()
    through_p = scale.numpy() * log_joint_gradient(z)
    through_q = -scale.numpy() * log_q_gradient(z, m, c)
    score_of_q = log_q_gradient(z, m, c)  # d log q / d loc = - d log q / d z, and log q is subtracted
    np.testing.assert_allclose(found, (through_p + through_q + score_of_q).sum(0), atol=1e-9)


def test_a_hook_on_z_reaches_a_density_that_remembers_what_it_made() -> None:
    # A caching transform knows its own output again and skips the inverse: log q would then bypass z.
    loc = torch.zeros(B, L, dtype=torch.float64, requires_grad=True)
    posterior = transformed(Normal(loc, torch.ones_like(loc)), cache_size=1)
    posterior = Independent(posterior, 1)
    draws = draw(linear_gaussian(), observations(), K, NOISE, posterior=posterior)
    draws.z.register_hook(torch.zeros_like)
    (found,) = torch.autograd.grad(draws.log_w.sum(), [loc])
    u = torch.atanh(draws.z.detach())
    np.testing.assert_allclose(found, -u.sum(0), atol=1e-6)  # minus the score of the base at u, and nothing else


def test_a_hook_on_the_z_of_one_scoring_leaves_another_scoring_of_the_same_samples_alone() -> None:
    loc, _, posterior = leaf_posterior()
    z = sample(posterior, K, NOISE, like=observations())
    first, second = (score(linear_gaussian(), posterior, observations(), z) for _ in range(2))
    (expected,) = torch.autograd.grad(second.log_w.sum(), [loc], retain_graph=True)
    first.z.register_hook(torch.zeros_like)
    (found,) = torch.autograd.grad(second.log_w.sum(), [loc])
    assert torch.equal(found, expected)


def test_without_reparameterisation_only_the_score_is_left() -> None:
    loc, factor, posterior = leaf_posterior()
    draws = draw(linear_gaussian(), observations(), K, NOISE, posterior=posterior, reparameterised=False)
    assert not draws.z.requires_grad
    assert torch.equal(draws.z, draw(linear_gaussian(), observations(), K, NOISE, posterior=posterior).z)
    (found,) = torch.autograd.grad(draws.log_w.sum(), [loc])
    score_of_q = log_q_gradient(draws.z.numpy(), loc.detach().numpy(), factor.detach().numpy())
    np.testing.assert_allclose(found, score_of_q.sum(0), atol=1e-9)


@covariances
def test_the_analytic_kl_is_the_rate(covariance: str) -> None:
    draws = case(covariance)
    q = draws.posterior
    cov = q.covariance_matrix if covariance == "full" else q.base_dist.scale.square().diag_embed()
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)
    expected = 0.5 * (trace + q.mean.square().sum(-1) - L - torch.logdet(cov))
    np.testing.assert_allclose(draws.analytic_kl().detach(), expected.detach(), rtol=1e-12)
    assert draws.analytic_kl().shape == (B,)


def test_a_rate_is_the_closed_form_or_a_mean_over_the_samples() -> None:
    draws = case()
    assert torch.equal(draws.rate("analytic"), draws.analytic_kl())
    ratio = draws.log_q_z_given_x - draws.log_p_z
    np.testing.assert_allclose(draws.rate("mc").detach(), ratio.detach().numpy().mean(0), rtol=1e-12)


def test_the_rates_of_the_dimensions_sum_to_the_rate() -> None:
    draws = case()
    per_dim = draws.analytic_kl_per_dim()
    assert per_dim.shape == (B, L)
    np.testing.assert_allclose(per_dim.sum(-1).detach(), draws.analytic_kl().detach(), rtol=1e-12)
    scale, loc = draws.posterior.base_dist.scale, draws.posterior.base_dist.loc
    expected = 0.5 * (scale.square() + loc.square() - 1 - 2 * scale.log())
    np.testing.assert_allclose(per_dim.detach(), expected.detach(), rtol=1e-12)


@covariances
def test_the_entropy_is_that_of_the_posterior(covariance: str) -> None:
    draws = case(covariance)
    q = draws.posterior
    cov = q.covariance_matrix if covariance == "full" else q.base_dist.scale.square().diag_embed()
    expected = [scipy.stats.multivariate_normal(np.zeros(L), each.detach().numpy()).entropy() for each in cov]
    np.testing.assert_allclose(draws.posterior_entropy().detach(), expected, rtol=1e-12)


def test_a_pair_without_a_closed_form_is_named_and_never_estimated() -> None:
    prior = dataclasses.replace(case(), prior=mixture())
    with pytest.raises(NoClosedFormError, match="DiagonalNormal and MixtureSameFamily"):
        prior.analytic_kl()
    with pytest.raises(NoClosedFormError, match="DiagonalNormal and MixtureSameFamily"):
        prior.analytic_kl_per_dim()
    posterior = dataclasses.replace(case(), posterior=transformed(mixture(B)))
    with pytest.raises(NoClosedFormError, match="TransformedDistribution and DiagonalNormal"):
        posterior.analytic_kl()
    with pytest.raises(NoClosedFormError, match="TransformedDistribution"):
        posterior.posterior_entropy()
    # torch has a closed form where the transforms are equal, and only there.
    base = Independent(Normal(torch.zeros(B, L), torch.ones(B, L)), 1)
    both = dataclasses.replace(
        case(),
        posterior=TransformedDistribution(base, [StickBreakingTransform()]),
        prior=TransformedDistribution(base, [AffineTransform(0.0, 2.0, event_dim=1)]),
    )
    with pytest.raises(NoClosedFormError, match="TransformedDistribution and TransformedDistribution"):
        both.analytic_kl()


def test_dependent_dimensions_have_no_rate_each() -> None:
    with pytest.raises(NoClosedFormError, match="FullNormal and DiagonalNormal"):
        case("full").analytic_kl_per_dim()
    matrix = Independent(Normal(torch.zeros(B, 2, L), torch.ones(B, 2, L)), 2)
    with pytest.raises(NoClosedFormError, match="Independent Normal"):
        dataclasses.replace(case(), posterior=matrix).analytic_kl_per_dim()


@hypothesis.given(cuts=st.lists(st.integers(0, K), max_size=4))
@trials(25)
def test_concatenating_the_samples_gives_back_the_draws(cuts: list[int]) -> None:
    draws = case()
    edges = [0, *sorted(cuts), K]
    pieces = [draws.samples(start, stop) for start, stop in itertools.pairwise(edges)]
    assert [len(piece.z) for piece in pieces] == [stop - start for start, stop in itertools.pairwise(edges)]
    joined = concatenate(pieces)
    for name in ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x", "log_w", "path_log_w"):
        assert torch.equal(getattr(joined, name), getattr(draws, name))
    assert joined.posterior is draws.posterior
    assert joined.prior is draws.prior


def test_some_samples_are_the_slice_of_every_part_even_of_what_was_computed_before() -> None:
    draws = case()
    whole = draws.log_w
    assert torch.equal(draws.samples(2, 5).log_w, whole[2:5])
    assert torch.equal(draws.samples(2, 5).z, draws.z[2:5])
    assert torch.equal(draws.samples(2, 5).analytic_kl(), draws.analytic_kl())


@dataclasses.dataclass
class Proposing:
    """The linear Gaussian model with another posterior."""

    proposal: Distribution

    def __post_init__(self) -> None:
        model = linear_gaussian()
        self.prior, self.likelihood = model.prior, model.likelihood

    def posterior(self, x: Tensor) -> Distribution:
        return self.proposal


def laplace() -> tuple[Tensor, Independent]:
    """A posterior that knows `rsample` and no `transport`."""
    loc = torch.from_numpy(exact_posterior()[0]).clone().requires_grad_()
    return loc, Independent(Laplace(loc, 0.4 * torch.ones_like(loc)), 1)


def test_a_distribution_that_only_knows_rsample_draws_from_its_place_alone() -> None:
    loc, posterior = laplace()
    model = Proposing(posterior)
    first = draw(model, observations(), K, NOISE)
    assert first.z.shape == (K, B, L)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        before = torch.get_rng_state()
        again = draw(model, observations(), K, NOISE)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.z, first.z)
    for elsewhere in (Noise(1, "latent", 3), Noise(0, "evaluate", 3), Noise(0, "latent", 4)):
        assert not torch.equal(draw(model, observations(), K, elsewhere).z, first.z)
    (gradient,) = torch.autograd.grad(first.z.sum(), [loc])
    np.testing.assert_allclose(gradient, K)
    assert not draw(model, observations(), K, NOISE, reparameterised=False).z.requires_grad


def test_a_distribution_that_only_knows_rsample_draws_its_own_law() -> None:
    loc, posterior = laplace()
    z = sample(posterior, 20_000, NOISE, like=observations())
    assert_mean(z, loc, detects=0.05)
    assert_mean((z - loc).abs(), 0.4 * torch.ones(B, L), detects=0.05)


def test_successive_pieces_of_a_stream_are_different_samples() -> None:
    for posterior in (laplace()[1], leaf_posterior()[2]):
        stream = NOISE.stream()
        first, second = (sample(posterior, K, stream, like=observations()) for _ in range(2))
        assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "posterior", [BernoulliArray(torch.zeros(B, L, dtype=torch.float64), 1), mixture(B)], ids=["discrete", "mixture"]
)
def test_a_gradient_through_samples_that_have_none_is_refused(posterior: Distribution) -> None:
    model = Proposing(posterior)
    with pytest.raises(NotReparameterisableError, match=type(posterior).__name__):
        draw(model, observations(), K, NOISE)
    draws = draw(model, observations(), K, NOISE, reparameterised=False)
    assert draws.z.shape == (K, B, L)
    assert torch.equal(draws.z, draw(model, observations(), K, NOISE, reparameterised=False).z)
    np.testing.assert_allclose(draws.log_q_z_given_x, posterior.log_prob(draws.z))


def test_drawing_neither_reads_nor_moves_torch_s_generator() -> None:
    with torch.random.fork_rng():
        for posterior in (leaf_posterior()[2], laplace()[1]):
            results = []
            for seed in (1, 2):
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                results.append(draw(Proposing(posterior), observations(), K, NOISE).z)
                assert torch.equal(torch.get_rng_state(), before)
            assert torch.equal(*results)


@pytest.mark.parametrize("cuts", [(B,), (1, 3), (2, 1, 1)], ids=str)
def test_ranks_draw_what_one_process_draws_for_the_same_examples(cuts: tuple[int, ...]) -> None:
    model, x = linear_gaussian("full"), observations()
    whole = draw(model, x, K, NOISE)
    starts = [0, *itertools.accumulate(cuts)]
    pieces = [
        draw(model, x[start : start + size], K, dataclasses.replace(NOISE, rows=(start, B)))
        for start, size in zip(starts, cuts, strict=False)
    ]
    # Two products of matrices of different height may differ in their last bit.
    for name in ("z", "log_w", "log_q_z_given_x"):
        joined = torch.cat([getattr(piece, name) for piece in pieces], 1)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_samples_in_double_precision_are_made_from_noise_in_double_precision() -> None:
    z = case().z
    assert z.dtype is torch.float64
    posterior = linear_gaussian().posterior(observations())
    eps = (z - posterior.base_dist.loc) / posterior.base_dist.scale
    assert (eps - eps.float().double()).abs().max() > 1e-9


def test_a_latent_of_several_axes_is_one_event() -> None:
    loc = torch.zeros(B, 2, L, dtype=torch.float64)
    posterior = Independent(Normal(loc, torch.ones_like(loc)), 2)

    class Matrix:
        def prior(self) -> Distribution:
            return Independent(Normal(loc[0] + 1, 2 * torch.ones_like(loc[0])), 2)

        def posterior(self, x: Tensor) -> Distribution:
            return posterior

        def likelihood(self, z: Tensor) -> Distribution:
            return Independent(Normal(z.sum((-1, -2))[..., None].expand(*z.shape[:-2], D), 1.0), 1)

    draws = draw(Matrix(), observations(), K, NOISE)
    z = draws.z.numpy()
    assert z.shape == (K, B, 2, L)
    np.testing.assert_allclose(draws.log_q_z_given_x, scipy.stats.norm.logpdf(z).sum((-1, -2)), rtol=1e-12)
    np.testing.assert_allclose(draws.log_p_z, scipy.stats.norm.logpdf(z, 1, 2).sum((-1, -2)), rtol=1e-12)
    assert draws.log_w.shape == (K, B)
    expected = 2 * L * (math.log(2) + (1 + 1) / (2 * 4) - 0.5)
    np.testing.assert_allclose(draws.analytic_kl(), expected, rtol=1e-12)


def test_each_row_has_a_gradient_of_its_own() -> None:
    # What the laws of gradients rest on: rows do not leak into each other.
    model = Replicas(B)
    values = draw(model, model.x, K, Fixed(NOISE.normal((K, B, L), dtype=torch.float64))).log_w.mean(0)
    gradients = model.gradients(values * torch.tensor([1.0, 0.0, 2.0, 0.0]))
    for gradient in gradients.values():
        sizes = gradient.reshape(B, -1).abs().amax(1)
        assert (sizes > 0).tolist() == [True, False, True, False]


def test_ranks_draw_different_numbers_of_a_distribution_that_only_knows_rsample() -> None:
    posterior = torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2, 3), 1.0), 1)
    like = torch.zeros(1)
    first, second = (sample(posterior, 5, Noise(0, "latent", 0, rows=(start, 4)), like=like) for start in (0, 2))
    assert not torch.isclose(first, second).any()


def test_integer_observations_do_not_truncate_the_noise() -> None:
    posterior = DiagonalNormal(torch.zeros(2, 3), torch.ones(2, 3))
    z = sample(posterior, 5, Noise(0, "latent"), like=torch.zeros(1, dtype=torch.int64))
    assert z.dtype == torch.float32
    assert (z != z.round()).all()


@pytest.mark.parametrize("lacks", ["posterior", "prior"])
def test_draws_without_a_distribution_have_no_rate(lacks: str) -> None:
    draws = dataclasses.replace(draw(linear_gaussian(), observations(), K, Noise(0, "latent")), **{lacks: None})
    with pytest.raises(NoClosedFormError, match="these draws have no"):
        draws.analytic_kl()
