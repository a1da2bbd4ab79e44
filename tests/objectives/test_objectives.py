"""Laws of the ELBO in each of its forms, and of L_K, on a model whose log p(x), posterior and ELBO are known exactly.

What every objective of `conf/objective/` is held to stands in `elbo_bench/conformance/`; values and gradients of the
others are in `test_bounds.py`, `test_estimators.py` and `test_batch_objectives.py`.
"""

import itertools
import math

import hypothesis
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import strategies as st
from support.linear_gaussian_case import (
    B,
    D,
    Fixed,
    K,
    L,
    Replicas,
    assert_mean,
    assert_mean_at_most,
    cubature,
    exact_log_p_x,
    linear_gaussian,
    observations,
    trials,
)
from torch import Tensor

from elbo_bench.config import build
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import Draws, draw
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.beta import BetaELBO
from elbo_bench.objectives.elbo_analytic import ELBOAnalytic
from elbo_bench.objectives.elbo_entropy import ELBOEntropy
from elbo_bench.objectives.elbo_mc import ELBOMC
from elbo_bench.objectives.iwae import IWAE

NOISE = Noise(0, "latent", 3)
ELBO_FORMS = {
    "mc": ELBOMC(),
    "analytic": ELBOAnalytic(),
    "entropy": ELBOEntropy(),
    "beta=1": BetaELBO(beta=1.0),
    "beta=1 mc": BetaELBO(beta=1.0, kl="mc"),
}
every_elbo = pytest.mark.parametrize("elbo", ELBO_FORMS.values(), ids=ELBO_FORMS)
covariances = pytest.mark.parametrize("covariance", ["diagonal", "full"])


def draws_for(objective: Objective, model=None, x: Tensor | None = None, noise=NOISE) -> Draws:
    return draw(
        model or linear_gaussian(),
        observations() if x is None else x,
        objective.samples_required,
        noise,
        reparameterised=objective.reparameterised,
    )


def draws_with(log_w: np.ndarray) -> Draws:
    """Draws whose log-weights are given: all that a bound of the weights may look at."""
    num_samples, num_examples = log_w.shape
    zeros = torch.zeros(num_samples, num_examples, dtype=torch.float64)
    normal = DiagonalNormal(zeros[0, :, None], zeros[0, :, None] + 1)
    z = torch.zeros(num_samples, num_examples, 1, dtype=torch.float64)
    return Draws(z, torch.from_numpy(log_w), zeros, zeros, normal, normal)


def construct(objective: Objective, field: str, value: object) -> None:
    """Construct the objective once more with another value, as outside pytest: here jaxtyping would be first."""
    object.__setattr__(objective, field, value)
    objective.__post_init__()


# --- the ELBO, in each of its forms ---


@every_elbo
def test_an_elbo_is_its_closed_form_in_value_and_gradient(elbo: Objective) -> None:
    # Every term is quadratic in the noise, so the cubature points give the expectation itself.
    model = Replicas(1)
    values = elbo(draw(model, model.x, 2 * L, cubature()))
    torch.testing.assert_close(values, model.exact_elbo(), rtol=1e-12, atol=0)
    expected = model.gradients(model.exact_elbo())
    for name, gradient in model.gradients(values).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-11, atol=1e-11)


@every_elbo
def test_an_elbo_agrees_in_expectation_with_its_closed_form_in_value_and_gradient(elbo: Objective) -> None:
    # False-fail 6e-8 for each form. Random samples show what the cubature's symmetry forgives: errors from 0.1 nats
    # on in a value of -7.6, and from 0.2 on in gradients whose largest entries are 1 to 3.
    replications = 30_000
    model = Replicas(replications)
    values = elbo(draw(model, model.x, 3, NOISE))
    assert_mean(values, model.exact_elbo()[0], detects=0.1)
    expected = model.gradients(model.exact_elbo())
    for name, gradient in model.gradients(values).items():
        assert_mean(gradient, expected[name][0], detects=0.2)


@every_elbo
@covariances
def test_the_elbo_gap_is_the_divergence_of_q_from_the_posterior(elbo: Objective, covariance: str) -> None:
    model = linear_gaussian(covariance)
    posterior, exact = model.posterior(observations()), model.exact_posterior(observations())
    factor = posterior.scale_tril if covariance == "full" else posterior.base_dist.scale.diag_embed()
    as_full = torch.distributions.MultivariateNormal(posterior.mean, scale_tril=factor)
    expected = torch.distributions.kl_divergence(as_full, exact)
    gap = torch.from_numpy(exact_log_p_x()) - elbo(draw(model, observations(), 2 * L, cubature()))
    torch.testing.assert_close(gap, expected, rtol=1e-10, atol=1e-11)
    assert (expected > 0.01).all()


@every_elbo
def test_the_gap_of_the_best_independent_q_is_known(elbo: Objective) -> None:
    model = linear_gaussian(posterior="best")
    weight, sigma = model.weight.detach().numpy(), model.noise_std.item()
    m = weight.T @ weight + sigma**2 * np.eye(L)
    expected = 0.5 * (np.log(m.diagonal()).sum() - np.linalg.slogdet(m).logabsdet)
    gap = exact_log_p_x() - elbo(draw(model, observations(), 2 * L, cubature())).detach().numpy()
    np.testing.assert_allclose(gap, expected, rtol=1e-10)
    assert expected > 0.05


@every_elbo
def test_the_best_independent_q_is_where_the_elbo_s_gradient_in_the_encoder_is_zero(elbo: Objective) -> None:
    for posterior, flat in [("best", True), ("off", False)]:
        model = linear_gaussian(posterior=posterior)
        elbo(draw(model, observations(), 2 * L, cubature())).sum().backward()
        sizes = [each.grad.abs().max() for each in (model.encoder.weight, model.encoder.bias, model.raw_scale)]
        assert max(sizes) < 1e-10 if flat else min(sizes) > 0.1


@every_elbo
def test_at_the_posterior_the_elbo_is_log_p_x(elbo: Objective) -> None:
    model = linear_gaussian("full", posterior="best")
    values = elbo(draw(model, observations(), 2 * L, cubature()))
    np.testing.assert_allclose(values.detach(), exact_log_p_x(), rtol=1e-12)


def test_the_mc_form_is_the_mean_log_weight() -> None:
    log_w = np.random.default_rng(0).normal(size=(K, B)) * 9
    np.testing.assert_allclose(ELBOMC(num_samples=K)(draws_with(log_w)), log_w.mean(0), rtol=1e-13)


# --- L_K ---

weights = st.lists(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=2), min_size=1, max_size=9)


@hypothesis.given(log_w=weights, offset=st.sampled_from([0.0, 1e4, -1e4]))
@trials(60)
def test_l_k_is_the_log_of_the_mean_weight_between_the_mean_and_the_largest(
    log_w: list[list[float]], offset: float
) -> None:
    given = np.array(log_w) + offset
    found = IWAE(num_samples=len(given))(draws_with(given)).numpy()
    expected = scipy.special.logsumexp(given, axis=0, b=1 / len(given))
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-12)
    assert (given.mean(0) <= found + 1e-11).all()
    assert (found <= given.max(0) + 1e-11).all()
    if len(given) > 1:
        fewer = len(given) - 1
        left_out = [scipy.special.logsumexp(np.delete(given, k, 0), axis=0, b=1 / fewer) for k in range(len(given))]
        assert (np.mean(left_out, 0) <= found + 1e-11).all()


def test_l_1_is_the_mc_elbo_in_value_and_gradient() -> None:
    gradients, values = [], []
    for objective in (IWAE(num_samples=1), ELBOMC(num_samples=1)):
        model = linear_gaussian()
        value = objective(draws_for(objective, model))
        gradients.append(torch.autograd.grad(value.sum(), list(model.parameters())))
        values.append(value)
    torch.testing.assert_close(*values, rtol=1e-14, atol=0)
    for iwae, elbo in zip(*gradients, strict=True):
        torch.testing.assert_close(iwae, elbo, rtol=1e-12, atol=1e-12)


def test_l_k_s_gradient_weighs_the_samples_by_their_normalised_weights() -> None:
    log_w = np.random.default_rng(0).normal(size=(K, B)) * 3
    draws = draws_with(log_w)
    draws.log_p_x_given_z.requires_grad_()
    IWAE(num_samples=K)(draws).sum().backward()
    np.testing.assert_allclose(draws.log_p_x_given_z.grad, scipy.special.softmax(log_w, 0), rtol=1e-12)


def test_l_k_grows_with_k_in_expectation_and_stays_below_log_p_x() -> None:
    # Paired on the same samples; each step of some 0.01 nats is seen with 7 standard errors or more.
    replications = 20_000
    x = observations().repeat_interleave(replications, 0)
    with torch.no_grad():
        draws = draw(linear_gaussian(), x, 8, NOISE)
        bounds = []
        for size in (1, 2, 4, 8):
            groups = [IWAE(num_samples=size)(draws.samples(start, start + size)) for start in range(0, 8, size)]
            bounds.append(torch.stack(groups).mean(0).view(B, replications).T)
    for lower, higher in itertools.pairwise(bounds):
        growth = (higher - lower).numpy()
        assert (growth.mean(0) > 7 * growth.std(0) / math.sqrt(replications)).all()
    assert_mean_at_most(bounds[-1], exact_log_p_x())


@pytest.mark.parametrize("objective", [ELBOMC(num_samples=K), IWAE(num_samples=K), IWAE(num_samples=1)], ids=str)
def test_at_the_posterior_a_bound_of_the_weights_is_log_p_x_draw_by_draw(objective: Objective) -> None:
    model = linear_gaussian("full", posterior="best")
    draws = draws_for(objective, model)
    np.testing.assert_allclose(draws.log_w.detach(), np.broadcast_to(exact_log_p_x(), draws.log_w.shape), atol=1e-9)
    np.testing.assert_allclose(objective(draws).detach(), exact_log_p_x(), rtol=0, atol=1e-9)


def test_a_sample_of_weight_zero_counts_in_l_k_and_adds_nothing() -> None:
    log_w = np.array([[0.3, 0.1], [-math.inf, 0.2], [-0.4, -math.inf]])
    np.testing.assert_allclose(IWAE(num_samples=3)(draws_with(log_w)), np.log(np.exp(log_w).mean(0)), rtol=1e-13)


# --- beta ---


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_beta_weighs_the_rate_and_nothing_else(kl: str) -> None:
    model = Replicas(1)
    draws = draw(model, model.x, 2 * L, cubature())
    rate = draws.analytic_kl()
    distortion = -draws.log_p_x_given_z.mean(0)
    assert rate > 0.5
    for beta in (0.25, 1.0, 3.5):
        found = BetaELBO(beta=beta, kl=kl, num_samples=2 * L)(draws)
        torch.testing.assert_close(found, -distortion - beta * rate, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kl", "elbo"), [("analytic", ELBOAnalytic(num_samples=K)), ("mc", ELBOMC(num_samples=K))])
def test_beta_1_is_the_elbo_of_the_same_form_draw_by_draw(kl: str, elbo: Objective) -> None:
    values, gradients = [], []
    for objective in (BetaELBO(beta=1.0, kl=kl, num_samples=K), elbo):
        model = linear_gaussian()
        values.append(objective(draws_for(objective, model)))
        gradients.append(torch.autograd.grad(values[-1].sum(), list(model.parameters())))
    torch.testing.assert_close(*values, rtol=1e-13, atol=0)
    for beta, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(beta, plain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_the_derivative_in_beta_is_minus_the_rate(kl: str) -> None:
    draws = draws_for(ELBOMC(num_samples=K))
    low, high = (BetaELBO(beta=beta, kl=kl, num_samples=K)(draws) for beta in (1.0, 3.0))
    rate = draws.analytic_kl() if kl == "analytic" else (draws.log_q_z_given_x - draws.log_p_z).mean(0)
    torch.testing.assert_close((high - low) / 2, -rate, rtol=1e-11, atol=1e-12)


def test_only_from_beta_1_on_is_it_a_bound() -> None:
    assert BetaELBO(beta=4.0).direction == BetaELBO(beta=1.0).direction == "lower"
    assert BetaELBO(beta=0.999).direction == BetaELBO(beta=0.5).direction == "none"
    # And it is none: half the rate is more than the gap that it would have to close.
    model = linear_gaussian("full", posterior="best")
    value = BetaELBO(beta=0.5)(draw(model, observations(), 2 * L, cubature())).detach().numpy()
    assert (value > exact_log_p_x() + 0.5).all()


@pytest.mark.parametrize(
    ("field", "bad"),
    [("beta", math.nan), ("beta", math.inf), ("beta", -1.0), ("beta", "4"), ("kl", "foo"), ("kl", None)],
)
def test_a_beta_or_a_kl_that_is_none_is_refused(field: str, bad: object) -> None:
    with pytest.raises(ValueError, match=f"BetaELBO.{field}={bad!r}"):
        construct(BetaELBO(), field, bad)
    with pytest.raises(UsageError, match=field):
        build("objective", "beta", **{field: bad})


def test_the_fields_of_an_objective_go_by_name() -> None:
    with pytest.raises(TypeError):
        IWAE(5)
    assert [objective.samples_required for objective in (IWAE(num_samples=K), ELBOMC(num_samples=D))] == [K, D]


def test_the_cubature_is_exact() -> None:
    # What the laws above rest on: mean 0 and covariance I, hence every quadratic.
    points = cubature().normal((2 * L, 1, L), dtype=torch.float64, device="cpu")[:, 0]
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-15)
    np.testing.assert_allclose(points.T @ points / (2 * L), np.eye(L), atol=1e-15)
    assert isinstance(cubature(), Fixed)
