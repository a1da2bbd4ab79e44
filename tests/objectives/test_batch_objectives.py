"""Objectives that see their whole batch, against loops over every pair; and the sum over a discrete latent."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from support.linear_gaussian_case import B, K, L, linear_gaussian, observations
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from elbo_bench.config import build
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import Draws, NoClosedFormError, NotReparameterisableError, draw, draw_for, enumerate_latents
from elbo_bench.noise import Noise
from elbo_bench.objectives.elbo_analytic import ELBOAnalytic
from elbo_bench.objectives.elbo_mc import ELBOMC

NOISE = Noise(5, "latent", 2)
N = 1000
ESTIMATORS = pytest.mark.parametrize("estimator", ["weighted", "stratified"])


def draws_of(covariance: str = "diagonal") -> Draws:
    return draw(linear_gaussian(covariance), observations(), K, NOISE)


def densities(draws: Draws) -> np.ndarray:
    """Return log q(z_i,d|x_j) of every sample, example i, example j and dimension d, by SciPy."""
    z, loc, scale = (
        each.detach().numpy() for each in (draws.z, draws.posterior.base_dist.loc, draws.posterior.base_dist.scale)
    )
    found = np.zeros((K, B, B, L))
    for k, i, j, d in np.ndindex(found.shape):
        found[k, i, j, d] = scipy.stats.norm.logpdf(z[k, i, d], loc[j, d], scale[j, d])
    return found


@ESTIMATORS
def test_the_total_correlation_is_that_of_the_batch(estimator: str) -> None:
    draws, each = draws_of(), densities(draws_of())
    shares = np.full((B, B), 1 / (N * B))
    if estimator == "stratified":
        shares[:] = 1 / (B - 1)
        for i in range(B):
            shares[i, i] = 1 / N
            shares[i, (i + 1) % B] = (N - B + 1) / (N * (B - 1))
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    correlation = np.zeros((K, B))
    for k, i in np.ndindex(correlation.shape):
        joint = np.log(np.sum(shares[i] * np.exp(each[k, i].sum(-1))))
        marginals = [np.log(np.sum(shares[i] * np.exp(each[k, i, :, d]))) for d in range(L)]
        correlation[k, i] = joint - sum(marginals)
    for beta in (0.0, 1.0, 6.0):
        objective = build("objective", "beta_tc", num_samples=K, beta=beta, estimator=estimator, num_train=N)
        expected = (draws.log_w.detach().numpy() - (beta - 1) * correlation).mean(0)
        np.testing.assert_allclose(objective(draws).detach(), expected, rtol=1e-10)
    assert np.abs(correlation).max() > 0.5


@ESTIMATORS
def test_with_beta_1_it_is_the_monte_carlo_elbo_in_value_and_gradient(estimator: str) -> None:
    found = []
    for objective in (
        build("objective", "beta_tc", num_samples=K, beta=1.0, estimator=estimator, num_train=N),
        ELBOMC(num_samples=K),
    ):
        model = linear_gaussian()
        value = objective(draw(model, observations(), K, NOISE))
        found.append((value, *torch.autograd.grad(value.sum(), list(model.parameters()))))
    for mine, elbo in zip(*found, strict=True):
        torch.testing.assert_close(mine, elbo, rtol=1e-10, atol=1e-10)


def test_the_stratified_estimate_of_q_z_is_unbiased_over_batches_and_the_weighted_one_is_low() -> None:
    # Every batch of three out of five examples that holds the sample's own, in every order of the other two.
    loc, z, size = np.array([-1.0, -0.2, 0.3, 1.1, 2.0]), 0.35, 3
    density = scipy.stats.norm.pdf(z, loc, 0.5)
    truth = density.mean()
    for estimator in ("weighted", "stratified"):
        objective = build("objective", "beta_tc", estimator=estimator, num_train=len(loc))
        estimates = []
        for others in itertools.permutations([0, 1, 3, 4], size - 1):
            batch = [2, *others]
            shares = objective._log_shares(torch.zeros(1, size, size, dtype=torch.float64))
            estimates.append(float((shares[0].exp() * torch.from_numpy(density[batch])).sum()))
        if estimator == "stratified":
            assert np.mean(estimates) == pytest.approx(truth, rel=1e-12)
        else:
            assert np.mean(estimates) < 0.6 * truth


def test_a_batch_of_one_has_a_total_correlation_too() -> None:
    for estimator in ("weighted", "stratified"):
        objective = build("objective", "beta_tc", estimator=estimator, num_train=N)
        draws = draw(linear_gaussian(), observations()[:1], 1, NOISE)
        assert objective(draws).isfinite().all()


def test_a_posterior_whose_dimensions_depend_on_each_other_has_no_densities_by_dimension() -> None:
    objective = build("objective", "beta_tc", num_samples=K, num_train=N)
    with pytest.raises(NoClosedFormError, match="FullNormal"):
        objective(draws_of("full"))


def kernel(a: np.ndarray, b: np.ndarray, width: float) -> float:
    return math.exp(-((a - b) ** 2).sum() / (2 * width**2))


@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_the_discrepancy_is_over_every_pair_of_samples(bandwidth: float | None) -> None:
    draws = draws_of()
    codes = draws.z.detach().numpy().reshape(-1, L)
    reference = NOISE.child("bound").normal((K, B, L), dtype=torch.float64).numpy().reshape(-1, L)
    width, size = bandwidth or math.sqrt(L), len(codes)
    pairs = list(itertools.permutations(range(size), 2))
    within = [
        np.mean([kernel(codes[a], codes[b], width) for a, b in pairs if a % B != b % B]),  # of different examples
        np.mean([kernel(reference[a], reference[b], width) for a, b in pairs]),
    ]
    across = np.mean([kernel(a, b, width) for a in codes for b in reference])
    discrepancy = sum(within) - 2 * across
    rate, distortion = draws.analytic_kl().detach().numpy(), -draws.log_p_x_given_z.mean(0).detach().numpy()
    objective = build("objective", "info_vae", num_samples=K, alpha=-0.5, lam=4.0, bandwidth=bandwidth)
    expected = -distortion - 1.5 * rate - 2.5 * discrepancy
    np.testing.assert_allclose(objective(draws).detach(), expected, rtol=1e-10)
    assert size == K * B
    assert abs(discrepancy) > 0.05


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_without_a_discrepancy_it_is_the_elbo(kl: str) -> None:
    objective = build("objective", "info_vae", num_samples=K, alpha=0.0, lam=1.0, kl=kl)
    elbo = (ELBOAnalytic if kl == "analytic" else ELBOMC)(num_samples=K)
    torch.testing.assert_close(objective(draws_of()), elbo(draws_of()), rtol=1e-12, atol=0)


def test_the_discrepancy_of_codes_that_are_drawn_from_the_prior_is_zero_on_average() -> None:
    # False-fail 1e-8; the standard error is a hundredth of the discrepancy of codes that are one unit off.
    normal = DiagonalNormal(torch.zeros(L, dtype=torch.float64), torch.ones(L, dtype=torch.float64))
    objective = build("objective", "info_vae", num_samples=2)
    found = {shift: [] for shift in (0.0, 1.0)}
    for shift, values in found.items():
        for position in range(400):
            z = shift + Noise(1, "codes", position).normal((2, 20, L), dtype=torch.float64)
            nothing = torch.zeros(2, 20, dtype=torch.float64)
            draws = Draws(z, nothing, nothing, nothing, None, normal, Noise(2, "prior", position))
            values.append(float(objective._discrepancy(draws)))
    error = np.std(found[0.0]) / math.sqrt(400)
    assert abs(np.mean(found[0.0])) < 5.8 * error
    assert np.mean(found[1.0]) > 50 * error


def test_the_discrepancy_does_not_count_samples_of_one_example_as_independent() -> None:
    # q(z) is the prior itself, and q(z|x) narrow: K samples of one x lie together. False-fail 1e-8.
    normal, objective = (
        DiagonalNormal(torch.zeros(2).double(), torch.ones(2).double()),
        build("objective", "info_vae", num_samples=8),
    )
    values = []
    for position in range(300):
        centre = math.sqrt(1 - 0.04) * Noise(1, "centre", position).normal((1, 10, 2), dtype=torch.float64)
        z = centre + 0.2 * Noise(1, "codes", position).normal((8, 10, 2), dtype=torch.float64)
        nothing = torch.zeros(8, 10, dtype=torch.float64)
        draws = Draws(z, nothing, nothing, nothing, None, normal, Noise(2, "prior", position))
        values.append(float(objective._discrepancy(draws)))
    error = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 5.8 * error < 0.02  # with such pairs it is 0.04


def test_a_prior_whose_samples_carry_no_gradient_is_refused() -> None:
    mixture = torch.distributions.MixtureSameFamily(
        Categorical(logits=torch.zeros(2).double()),
        Independent(Normal(torch.zeros(2, L).double(), torch.ones(2, L).double()), 1),
    )
    with pytest.raises(NotReparameterisableError, match="samples of the prior, MixtureSameFamily, have no gradient"):
        build("objective", "info_vae", num_samples=K, kl="mc")(dataclasses.replace(draws_of(), prior=mixture))


def test_a_prior_without_transport_is_drawn_from_by_a_seed() -> None:
    prior = Independent(Normal(torch.zeros(L, dtype=torch.float64), torch.ones(L, dtype=torch.float64)), 1)
    draws = dataclasses.replace(draws_of(), prior=prior)
    objective = build("objective", "info_vae", num_samples=K)
    before = torch.random.get_rng_state()
    torch.testing.assert_close(objective(draws), objective(draws), rtol=0, atol=0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.allclose(objective(draws), objective(draws_of()), rtol=1e-6)


@pytest.mark.parametrize(("field", "message"), [("prior", "p\\(z\\)"), ("noise", "have no noise")])
def test_info_vae_names_the_missing_field(field: str, message: str) -> None:
    draws = dataclasses.replace(draws_of(), **{field: None})
    with pytest.raises((NoClosedFormError, ValueError), match=message):
        build("objective", "info_vae", num_samples=K, kl="mc")(draws)


# --- a discrete latent, summed over ---


class Dice:
    """Two variables of three values each; four examples of two binary pixels."""

    def __init__(self) -> None:
        numbers = np.random.default_rng(1)
        self.q = torch.tensor(numbers.normal(size=(4, 2, 3)), requires_grad=True)
        self.p = torch.tensor(numbers.normal(size=(2, 3)), requires_grad=True)
        self.table = torch.tensor(numbers.normal(size=(3, 3)), requires_grad=True)

    def posterior(self, x: Tensor) -> Independent:
        return Independent(Categorical(logits=self.q), 1)

    def prior(self) -> Independent:
        return Independent(Categorical(logits=self.p), 1)

    def likelihood(self, z: Tensor) -> Normal:
        return Normal(self.table[z[..., 0], z[..., 1]], 0.5)


def test_the_enumerated_elbo_is_a_sum_over_all_values_with_the_gradient_of_that_sum() -> None:
    model, x = Dice(), torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    objective = build("objective", "enumerated")
    value = objective(draw_for(objective, model, x, NOISE))
    log_q, log_p = model.q.log_softmax(-1), model.p.log_softmax(-1)
    expected = torch.zeros(4, dtype=torch.float64)
    for a, b in itertools.product(range(3), repeat=2):
        joint = log_p[0, a] + log_p[1, b] + Normal(model.table[a, b], 0.5).log_prob(x)
        log_q_z = log_q[:, 0, a] + log_q[:, 1, b]
        expected = expected + log_q_z.exp() * (joint - log_q_z)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    leaves = [model.q, model.p, model.table]
    for mine, exact in zip(
        torch.autograd.grad(value.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, exact, rtol=1e-11, atol=1e-12)
    exact = scipy.special.logsumexp(
        enumerate_latents(model, model.posterior(x), x).log_w.detach().numpy()
        + enumerate_latents(model, model.posterior(x), x).log_q_z_given_x.detach().numpy(),
        axis=0,
    )
    assert (value.detach().numpy() < exact).all()


def test_a_value_that_q_never_takes_adds_nothing() -> None:
    model, x = Dice(), torch.zeros(4, dtype=torch.float64)
    with torch.no_grad():
        model.q[:, 0, 1] = -math.inf
    objective = build("objective", "enumerated")
    value = objective(draw_for(objective, model, x, NOISE))
    assert value.isfinite().all()
    gradient = torch.autograd.grad(value.sum(), model.table)[0]
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()


def test_a_latent_that_cannot_be_enumerated_is_named() -> None:
    objective = build("objective", "enumerated")
    with pytest.raises(NoClosedFormError, match="DiagonalNormal cannot be enumerated"):
        draw_for(objective, linear_gaussian(), observations(), NOISE)

    class Many(Dice):
        def prior(self) -> Independent:
            return Independent(Categorical(logits=torch.zeros(12, 3)), 1)

    with pytest.raises(NoClosedFormError, match="531441 values, more than 131072"):
        draw_for(objective, Many(), torch.zeros(4, dtype=torch.float64), NOISE)
