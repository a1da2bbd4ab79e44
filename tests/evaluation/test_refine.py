"""The fitted proposal: the exact posterior where that is normal, a component for each mode where it has several."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.bimodal import Bimodal
from support.linear_gaussian_case import SIGMA, B, L, W, exact_posterior, linear_gaussian, observations
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.evaluation.importance_sampling.refine import (
    HESSIAN_COST,
    Effort,
    Refined,
    _distinct,
    affordable,
    num_starts,
    refine,
)
from elbo_bench.models.mlp import MLP
from elbo_bench.noise import Noise

S = 2
EFFORT = Effort(ascent_steps=50, most_modes=3, corrections=2)


def fit(model: object, x: Tensor, starts: Tensor, scale: float = 0.3, effort: Effort = EFFORT, seed: int = 0):
    with torch.no_grad():
        return refine(
            model,  # type: ignore[arg-type]
            x,
            starts,
            torch.full(starts.shape[1:], scale, dtype=starts.dtype),
            effort=effort,
            stream=Noise(seed, "test").stream(),
        )


def covariances(refined: Refined) -> Tensor:
    return refined.scale_tril @ refined.scale_tril.mT


# --- an exact posterior that is normal ---


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("distance", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("corrections", [1, 3])
def test_the_fit_is_the_exact_posterior_where_that_is_normal(
    covariance: str, distance: float, corrections: int
) -> None:
    model, x = linear_gaussian(covariance), observations()
    noise = Noise(1, "test").normal((S, B, L), dtype=torch.float64)
    starts = (model.posterior(x).mean + distance * model.posterior(x).stddev * noise).detach()
    refined = fit(model, x, starts, effort=Effort(50, 3, corrections))
    mean, expected = exact_posterior()
    used = refined.log_shares > -math.inf
    assert bool(used.any(0).all())
    for component, example in used.nonzero().tolist():
        np.testing.assert_allclose(refined.loc[component, example], mean[example], atol=1e-9)
        np.testing.assert_allclose(covariances(refined)[component, example], expected, atol=1e-9)
    np.testing.assert_allclose(refined.log_shares.exp().sum(0), 1, atol=1e-12)
    if not distance:  # from one place there is one mode
        assert len(refined.loc) == 1


def test_without_corrections_the_curvature_is_exact_and_the_mean_is_where_the_ascent_arrived() -> None:
    model, x = linear_gaussian(), observations()
    starts = model.posterior(x).mean.detach()[None].repeat(S, 1, 1)
    refined = fit(model, x, starts, effort=Effort(50, 1, 0))
    mean, expected = exact_posterior()
    np.testing.assert_allclose(covariances(refined)[0], np.tile(expected, (B, 1, 1)), atol=1e-9)
    assert np.abs(refined.loc[0].numpy() - mean).max() < 0.05


def test_parts_are_those_of_the_rows_asked_for_and_wider_by_the_factor() -> None:
    model, x = linear_gaussian(), observations()
    refined = fit(model, x, model.posterior(x).mean.detach()[None])
    (part,) = dataclasses.replace(refined.rows(torch.tensor([3, 1])), dtype=torch.float32).parts(1.5)
    mean, expected = exact_posterior()
    assert part.loc.dtype is torch.float32
    np.testing.assert_allclose(part.loc, mean[[3, 1]], atol=1e-6)
    np.testing.assert_allclose(part.covariance_matrix, np.tile(2.25 * expected, (2, 1, 1)), atol=1e-6)


# --- several modes ---

X = torch.tensor([[4.0, 0.3], [6.0, -0.5], [5.0, 0.0], [3.5, 1.0], [7.0, 0.1]], dtype=torch.float64)


def mirrored_starts(*firsts: float) -> Tensor:
    starts = torch.zeros(len(firsts), len(X), 2, dtype=torch.float64)
    starts[..., 0] = torch.tensor(firsts)[:, None]
    return starts


def test_each_mode_gets_a_component_fitted_to_it() -> None:
    model = Bimodal()
    refined = fit(model, X, mirrored_starts(2.5, -1.9, 1.8, -2.4), effort=Effort(50, 4, 3))
    used = refined.log_shares > -math.inf
    for example, x in enumerate(X):
        mine = used[:, example]
        loc, covariance = refined.loc[mine, example], covariances(refined)[mine, example]
        side = loc[:, 0].sign()
        mean, deviation = model.moments(float(x[0]))
        # The best normal is not the half's moments: within a fifth of the deviation, and a quarter of it.
        np.testing.assert_allclose(loc[:, 0], side * mean, atol=0.2 * deviation)
        np.testing.assert_allclose(covariance[:, 0, 0].sqrt(), deviation, rtol=0.25)
        # The other dimension is normal, and independent.
        np.testing.assert_allclose(loc[:, 1], x[1] / (1 + 0.25), atol=1e-6)
        np.testing.assert_allclose(covariance[:, 1, 1], 0.25 / (1 + 0.25), rtol=1e-6)
        np.testing.assert_allclose(covariance[:, 0, 1], 0, atol=1e-6)
        shares = refined.log_shares[mine, example].exp()
        assert sorted(side.unique().tolist()) == [-1, 1]
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.05)  # all are equally high and wide


def test_starts_that_end_in_one_place_are_one_component() -> None:
    starts = mirrored_starts(2.2, -2.2, 2.2, -2.2, 2.2)
    refined = fit(Bimodal(), X, starts, effort=Effort(50, 4, 1))
    used = refined.log_shares > -math.inf
    assert used.sum(0).tolist() == [2] * len(X)
    # Of places a little apart, less than a tenth of q's deviation, the highest is kept.
    modes = fit(Bimodal(), X, starts[:2], effort=Effort(50, 4, 0))
    near = torch.stack([modes.loc[0], modes.loc[0] + 0.02, modes.loc[0] - 0.02, modes.loc[0] + 0.5])
    heights = torch.tensor([-1.0, -0.5, -2.0, -3.0], dtype=torch.float64)[:, None].expand(-1, len(X))
    kept = _distinct(near, heights, torch.full((len(X), 2), 0.3, dtype=torch.float64), 4)
    assert kept.mT.tolist() == [[False, True, False, True]] * len(X)
    most = _distinct(near, heights, torch.full((len(X), 2), 0.3, dtype=torch.float64), 1)
    assert most.mT.tolist() == [[False, True, False, False]] * len(X)


def test_a_mode_far_below_the_highest_is_left_out_and_the_others_share_by_their_mass() -> None:
    class Tilted(Bimodal):
        tilt = 0.0

        def prior(self) -> Distribution:  # type: ignore[override]
            return DiagonalNormal(
                torch.tensor([self.tilt, 0.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
            )

    model = Tilted()
    model.tilt = 0.4  # the mirror image of a mode at m is less likely by exp(2 * 0.4 m)
    refined = fit(model, X, mirrored_starts(2.2, -2.2), effort=Effort(50, 4, 0))
    heights = 2 * 0.4 * X[:, 0].sqrt().numpy()
    for example in range(len(X)):
        share = refined.log_shares[refined.loc[:, example, 0] > 0, example].exp()
        expected = 1 / (1 + np.exp(-heights[example]))
        np.testing.assert_allclose(share, (expected + 0.05) / 1.1, atol=0.03)
    model.tilt = 5.0  # by more than exp(18)
    refined = fit(model, X, mirrored_starts(2.2, -2.2), effort=Effort(50, 4, 0))
    assert len(refined.loc) == 1
    assert bool((refined.loc[0, :, 0] > 0).all())


def test_no_more_modes_than_are_paid_for() -> None:
    refined = fit(Bimodal(), X, mirrored_starts(2.2, -2.2), effort=Effort(50, 1, 1))
    assert bool(((refined.log_shares > -math.inf).sum(0) == 1).all())
    np.testing.assert_allclose(refined.log_shares.exp().sum(0), 1, atol=1e-12)


def test_examples_with_different_numbers_of_modes_share_a_block() -> None:
    x = torch.tensor([[5.0, 0.0], [-3.0, 0.0], [4.0, 0.0]], dtype=torch.float64)  # below zero: one mode, at z_1 = 0
    starts = mirrored_starts(2.2, -2.2)[:, :3].clone()
    starts[:, 1] = 0
    refined = fit(Bimodal(), x, starts)
    counts = (refined.log_shares > -math.inf).sum(0)
    assert counts.tolist() == [2, 1, 2]
    alone = torch.cat([fit(Bimodal(), x[i : i + 1], starts[:, i : i + 1]).cost for i in range(3)])
    per_mode = HESSIAN_COST * 2 * (1 + 2 * EFFORT.corrections) + 1
    assert torch.equal(alone, refined.cost)
    assert (alone - alone[1]).tolist() == [per_mode, 0, per_mode]
    np.testing.assert_allclose(refined.log_shares.exp().sum(0), 1, atol=1e-12)


# --- kinds of decoders ---


def test_a_decoder_that_ignores_the_latent_leaves_the_prior() -> None:
    class Ignores(Bimodal):
        def likelihood(self, z: Tensor) -> Distribution:
            return Independent(Normal(torch.zeros_like(z), 1.0), 1)

    refined = fit(Ignores(), X, mirrored_starts(0.5, -0.7), effort=Effort(50, 4, 1))
    np.testing.assert_allclose(refined.loc[0], 0, atol=1e-8)
    np.testing.assert_allclose(covariances(refined)[0], np.tile(np.eye(2), (len(X), 1, 1)), atol=1e-8)


@pytest.mark.parametrize("linear", [True, False])
def test_a_curvature_of_zero_gives_a_finite_covariance(linear: bool) -> None:
    class Plane(Distribution):
        """A density whose logarithm is linear in z, or does not depend on it."""

        def __init__(self, z: Tensor) -> None:
            super().__init__(z.shape[:-1], torch.Size([2]), validate_args=False)
            self.z = z

        def log_prob(self, x: Tensor) -> Tensor:
            return (self.z * x).sum(-1) if linear else torch.zeros(self.z.shape[:-1], dtype=torch.float64)

    class Flat(Bimodal):
        def prior(self) -> Distribution:  # type: ignore[override]
            class Wide(Distribution):
                def log_prob(self, z: Tensor) -> Tensor:
                    return -0.01 * z.sum(-1)

            return Wide(torch.Size(), torch.Size([2]), validate_args=False)

        def likelihood(self, z: Tensor) -> Distribution:
            return Plane(z)

    refined = fit(Flat(), X, mirrored_starts(0.5), effort=Effort(10, 1, 1))
    assert bool(refined.loc.isfinite().all())
    np.testing.assert_allclose(covariances(refined)[0], np.tile(np.eye(2) / 0.3, (len(X), 1, 1)), rtol=1e-9)


def test_a_decoder_of_bernoulli_pixels_is_fitted_in_single_precision() -> None:
    info = DataInfo((3, 4), torch.full((3, 4), 0.4), 100, "discrete", 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP(info, latent_dim=3, hidden=(7,))
    x = (Noise(0, "x").uniform((5, 3, 4)) < 0.5).float()
    with torch.no_grad():
        model.decoder.body[0].weight *= 3
        starts = model.posterior(x).mean[None]
    refined = fit(model, x, starts, scale=0.5, effort=Effort(50, 3, 3))
    assert refined.loc.dtype is torch.float64
    with torch.no_grad():
        (part,) = dataclasses.replace(refined, dtype=torch.float32).parts(1.4)
        z = part.transport(Noise(1, "x").normal((4000, 5, 3)))
        log_w = model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - part.log_prob(z)
    share = (2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0)).exp() / 4000
    # Far from normal: twelve pixels see a tanh of steep weights. Measured here: 15 % to 68 % of the samples count.
    assert float(share.min()) > 0.1


# --- what it costs and what it leaves alone ---


class Counting:
    """Counts the latents that are decoded."""

    def __init__(self) -> None:
        self.model, self.decoded = linear_gaussian(), 0

    def posterior(self, x: Tensor) -> Distribution:
        return self.model.posterior(x)

    def prior(self) -> Distribution:
        return self.model.prior()

    def likelihood(self, z: Tensor) -> Distribution:
        self.decoded += z[..., 0].numel()
        return self.model.likelihood(z)


@pytest.mark.parametrize("num_dims", [1, 2, 3, 7, 20, 50, 200])
def test_the_effort_never_costs_more_than_the_budget(num_dims: int) -> None:
    some = False
    for budget in range(-5, 4000):
        effort = affordable(num_dims, budget)
        if effort is None:
            continue
        some = True
        per_mode = HESSIAN_COST * num_dims * (1 + 2 * effort.corrections) + 1
        # A gradient counts two, and the modes are looked at once more.
        cost = (2 * effort.ascent_steps + 1) * num_starts(num_dims) + per_mode * effort.most_modes
        assert cost <= budget, (budget, effort)
        assert 10 <= effort.ascent_steps <= 50
        assert 1 <= effort.most_modes <= num_starts(num_dims)
        assert 0 <= effort.corrections <= 3
    assert some
    plenty = affordable(num_dims, 10**6)
    assert plenty == Effort(50, num_starts(num_dims), 3)


def test_the_stated_cost_is_what_was_decoded() -> None:
    model, x = Counting(), observations()
    starts = model.posterior(x).mean.detach()[None].repeat(S, 1, 1)
    effort = Effort(11, 3, 2)
    refined = fit(model, x, starts, effort=effort)
    ascent, heights = S * effort.ascent_steps, S
    curvatures = L * (1 + 2 * effort.corrections)
    assert model.decoded == B * (ascent + heights + curvatures + 1)
    expected = 2 * ascent + heights + HESSIAN_COST * curvatures + 1
    assert refined.cost.tolist() == [expected] * B


def test_the_model_is_left_as_it_was_and_gets_no_gradient() -> None:
    model, x = linear_gaussian(), observations()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refined = fit(model, x, model.posterior(x).mean.detach()[None])
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(part.requires_grad for part in (refined.loc, refined.scale_tril, refined.log_shares, refined.cost))


def test_the_same_stream_gives_the_same_fit_and_another_one_another() -> None:
    starts = mirrored_starts(2.2, -2.2)
    one, same, other = (fit(Bimodal(), X, starts, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.loc, same.loc)
    assert torch.equal(one.scale_tril, same.scale_tril)
    assert torch.equal(one.log_shares, same.log_shares)
    assert not torch.equal(one.loc, other.loc)


def test_fits_of_examples_do_not_depend_on_their_neighbours_without_corrections() -> None:
    starts = mirrored_starts(2.2, -2.2)
    whole = fit(Bimodal(), X, starts, effort=Effort(20, 2, 0))
    for example in range(len(X)):
        alone = fit(Bimodal(), X[example : example + 1], starts[:, example : example + 1], effort=Effort(20, 2, 0))
        torch.testing.assert_close(alone.loc[:, 0], whole.loc[:, example], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.scale_tril[:, 0], whole.scale_tril[:, example], rtol=1e-12, atol=1e-12)


# --- where the log-joint has an edge ---


class Cut(Bimodal):
    """The likelihood is zero above a cut, and the posterior rises towards it."""

    def __init__(self, slope: float, undefined: bool) -> None:
        super().__init__(loc=0.0)
        self.slope, self.undefined = slope, undefined

    def likelihood(self, z: Tensor) -> Distribution:
        model = self

        class Edge(Distribution):
            def log_prob(self, x: Tensor) -> Tensor:
                value = model.slope * z[..., 0] + 0 * x[..., 0]
                if model.undefined:  # a gradient of NaN beyond the cut, as code that takes a logarithm has
                    return value + 0.01 * torch.log((0.5 - z[..., 0]).clamp(min=0))
                return torch.where(z[..., 0] < 0.5, value, -math.inf)

        return Edge(z.shape[:-1], torch.Size([2]), validate_args=False)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("corrections", [0, 2])
def test_an_edge_of_the_likelihood_leaves_a_proposal_to_draw_from(undefined: bool, corrections: int) -> None:
    refined = fit(Cut(5.0, undefined), X, mirrored_starts(0.3, -0.3), effort=Effort(30, 2, corrections))
    assert len(refined.loc) >= 1
    assert bool(refined.loc.isfinite().all())
    assert bool(refined.scale_tril.isfinite().all())
    np.testing.assert_allclose(refined.log_shares.exp().sum(0), 1, atol=1e-12)


def test_sigma_and_weights_of_the_case_are_what_the_closed_form_uses() -> None:
    mean, covariance = exact_posterior()
    np.testing.assert_allclose(np.linalg.inv(covariance), np.eye(L) + W.T @ W / SIGMA**2, rtol=1e-10)
    assert mean.shape == (B, L)
