"""Laws of the proposals: a density that integrates to one, draws that follow it, and what widening gives."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from support.linear_gaussian_case import assert_mean
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Cauchy,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    LowRankMultivariateNormal,
    Normal,
    OneHotCategorical,
    StudentT,
)

from elbo_bench.distributions import DiagonalNormal, FullNormal, standard_normal
from elbo_bench.evaluation.importance import Importance
from elbo_bench.evaluation.importance_sampling.proposals import Proposal, widen, widening_of
from elbo_bench.evaluation.importance_sampling.proposals import mixture as mixture_of
from elbo_bench.noise import Noise

K, B, D = 60_000, 4, 2
LOC = torch.tensor([[-12.0, 14.0], [-13.0, 15.0], [-12.0, 17.0], [-11.0, 16.0]], dtype=torch.float64)
SCALE = torch.tensor([0.5, 0.8, 1.1, 0.6], dtype=torch.float64)
# Three parts, the last one the same for all; the shares differ by example, and some are nothing.
SHARES = torch.tensor([[0.2, 0.0, 1.0, 0.5], [0.5, 0.6, 0.0, 0.0], [0.3, 0.4, 0.0, 0.5]], dtype=torch.float64)


def mixture(num_dims: int = 1) -> Proposal:
    """Parts that lie so far apart that a draw says which one it comes from."""
    first, second = (LOC[:, side, None].expand(-1, num_dims) for side in (0, 1))
    spread = SCALE[:, None].expand(-1, num_dims)
    diagonal = DiagonalNormal(first, spread)
    full = FullNormal(second, torch.diag_embed(2 * spread))
    shared = standard_normal(num_dims, like=LOC)
    return Proposal((diagonal, full, shared), SHARES.log())


def like(num_rows: int = B) -> Tensor:
    return torch.zeros(num_rows, 3, dtype=torch.float64)


def test_the_density_of_a_mixture_integrates_to_one_and_is_the_sum_of_its_parts() -> None:
    grid = torch.linspace(-40, 40, 32_001, dtype=torch.float64)
    log_density = mixture().log_prob(grid[:, None, None].expand(-1, B, 1))
    assert log_density.dtype is torch.float64
    integral = torch.trapezoid(log_density.exp(), grid, dim=0)
    np.testing.assert_allclose(integral, 1, atol=1e-12)
    points = grid.numpy()[:, None]
    parts = [
        scipy.stats.norm(LOC[:, 0], SCALE).logpdf(points),
        scipy.stats.norm(LOC[:, 1], 2 * SCALE).logpdf(points),
        np.broadcast_to(scipy.stats.norm.logpdf(points), log_density.shape),
    ]
    expected = scipy.special.logsumexp(parts, axis=0, b=SHARES.numpy()[:, None])
    np.testing.assert_allclose(log_density, expected, rtol=1e-12, atol=1e-12)


def test_draws_come_from_each_part_as_often_as_its_share_and_follow_it() -> None:
    z = mixture(D).draw(K, Noise(0, "test").stream(), like())
    assert z.shape == (K, B, D)
    assert z.dtype is torch.float64
    part = torch.where(z[..., 0] < -5, 0, torch.where(z[..., 0] > 5, 1, 2))
    # 60,000 draws: a share is known to 2 %, and each part's mean and covariance to 15 % of its units.
    for index in range(3):
        assert_mean((part == index).double(), SHARES[index], detects=0.02)
    for example in range(B):
        for index, (loc, scale) in enumerate([(LOC[:, 0], SCALE), (LOC[:, 1], 2 * SCALE), (0 * SCALE, 1 + 0 * SCALE)]):
            mine = z[part[:, example] == index, example]
            assert (len(mine) > 0) == (SHARES[index, example] > 0)
            if len(mine):
                standard = (mine - loc[example]) / scale[example]
                columns = torch.cat([standard, standard.square(), standard[:, :1] * standard[:, 1:]], 1)
                assert_mean(columns, [0, 0, 1, 1, 0], detects=0.15)


def test_no_draw_repeats_another_and_the_same_stream_gives_the_same_draws() -> None:
    one, same = (mixture(D).draw(50, Noise(3, "test").stream(), like()) for _ in range(2))
    other = mixture(D).draw(50, Noise(4, "test").stream(), like())
    assert torch.equal(one, same)
    assert len(torch.cat([one, other]).flatten().unique()) == 2 * 50 * B * D
    stream = Noise(3, "test").stream()
    pieces = torch.cat([mixture(D).draw(20, stream, like()) for _ in range(2)])
    assert len(pieces.flatten().unique()) == 40 * B * D


def test_parts_without_transport_are_drawn_with_their_own_sampler() -> None:
    heavy = Independent(StudentT(5.0, LOC[:, :1].expand(-1, D), SCALE[:, None]), 1)
    prior = standard_normal(D, like=LOC)
    proposal = mixture_of((heavy, 0.3), (prior, 0.7))
    state = torch.get_rng_state()
    z = proposal.draw(K, Noise(0, "test").stream(), like())
    assert torch.equal(torch.get_rng_state(), state)
    assert z.shape == (K, B, D)
    far = (z < -5).all(-1)
    # The heavy tail rarely comes back over the border; 3 % would be seen.
    assert_mean(far.double(), np.full(B, 0.3), detects=0.02, false_fail=1e-10)
    assert_mean(z, (0.3 * LOC[:, :1]).expand(-1, D), detects=0.3)
    expected = np.logaddexp(
        scipy.stats.t(5, LOC[:, :1], SCALE[:, None]).logpdf(z[:9]).sum(-1) + math.log(0.3),
        scipy.stats.norm.logpdf(z[:9]).sum(-1) + math.log(0.7),
    )
    np.testing.assert_allclose(proposal.log_prob(z[:9]), expected, rtol=1e-12)


def test_a_discrete_latent_is_drawn_and_scored() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]], dtype=torch.float64)
    shared = Categorical(probs=torch.full((3,), 1 / 3, dtype=torch.float64))
    proposal = mixture_of((Categorical(probs=probs), 0.25), (shared, 0.75))
    z = proposal.draw(K, Noise(0, "test").stream(), like(2))
    assert z.shape == (K, 2)
    assert not z.is_floating_point()
    expected = 0.25 * probs + 0.75 / 3
    assert_mean(torch.nn.functional.one_hot(z, 3).double(), expected, detects=0.02)
    states = torch.arange(3)[:, None].expand(-1, 2)
    np.testing.assert_allclose(proposal.log_prob(states).exp(), expected.mT, rtol=1e-12)


def test_draws_and_densities_of_one_part_are_that_distribution_s() -> None:
    only = DiagonalNormal(LOC, SCALE[:, None].expand(-1, D))
    proposal = mixture_of((only, 1.0))
    z = proposal.draw(7, Noise(0, "test").stream(), like())
    noise = Noise(0, "test").stream().normal((7, B, D), dtype=torch.float64)
    torch.testing.assert_close(z, only.transport(noise), rtol=0, atol=0)
    torch.testing.assert_close(proposal.log_prob(z), only.log_prob(z), rtol=0, atol=0)
    shared = mixture_of((DiagonalNormal(LOC[0], SCALE[:2]), 1.0))
    drawn = shared.draw(7, Noise(0, "test").stream(), like())
    assert drawn.shape == (7, B, D)
    assert len(drawn.flatten().unique()) == 7 * B * D


def test_shares_are_the_same_for_every_example() -> None:
    part = DiagonalNormal(LOC, LOC.abs())
    proposal = mixture_of((part, 0.2), (part, 0.3), (part, 0.5))
    shares = proposal.log_shares.exp().expand(-1, B)
    np.testing.assert_allclose(shares, np.tile([[0.2], [0.3], [0.5]], (1, B)), rtol=1e-15)


def test_a_float32_part_is_scored_in_double() -> None:
    part = DiagonalNormal(LOC.float(), SCALE.float()[:, None].expand(-1, D))
    z = torch.zeros(3, B, D)
    for proposal in (mixture_of((part, 1.0)), mixture_of((part, 0.5), (part, 0.5))):
        assert proposal.log_prob(z).dtype is torch.float64
        assert proposal.draw(3, Noise(0, "test").stream(), z[0]).dtype is torch.float32


# --- widening ---


def test_a_full_normal_is_widened_in_all_directions() -> None:
    factor = torch.tensor([[0.5, 0.0], [0.4, 0.9]], dtype=torch.float64).expand(B, -1, -1)
    wide = widen(FullNormal(LOC, factor), 3.0)
    assert isinstance(wide, FullNormal)
    torch.testing.assert_close(wide.covariance_matrix, 9 * factor @ factor.mT)
    torch.testing.assert_close(wide.loc, LOC)


@pytest.mark.parametrize(
    "posterior",
    [
        DiagonalNormal(LOC, SCALE[:, None].expand(-1, D)),
        Independent(Normal(LOC, SCALE[:, None]), 1),
        Independent(Laplace(LOC, SCALE[:, None]), 1),
        Independent(StudentT(5.0, LOC, SCALE[:, None]), 1),
        LowRankMultivariateNormal(LOC, torch.ones(B, D, 1, dtype=torch.float64), SCALE[:, None].expand(-1, D)),
    ],
    ids=lambda posterior: type(getattr(posterior, "base_dist", posterior)).__name__,
)
def test_another_posterior_becomes_a_normal_with_its_mean_and_its_deviation(posterior: Distribution) -> None:
    wide = widen(posterior, 1.7)
    assert isinstance(wide, DiagonalNormal)
    torch.testing.assert_close(wide.mean, posterior.mean)
    torch.testing.assert_close(wide.stddev, 1.7 * posterior.stddev)


class WithoutMean(Distribution):
    """A distribution that says no more than it must."""

    def __init__(self, support: torch.distributions.constraints.Constraint | None) -> None:
        super().__init__(torch.Size([B]), torch.Size([D]), validate_args=False)
        self._support = support

    @property
    def support(self):
        if self._support is None:
            raise NotImplementedError
        return self._support


REAL = torch.distributions.constraints.real_vector
PROBS = torch.full((B, D), 0.5, dtype=torch.float64)


@pytest.mark.parametrize(
    "posterior",
    [
        Independent(Bernoulli(PROBS), 1),
        Categorical(PROBS),
        OneHotCategorical(PROBS),
        Independent(Gamma(PROBS, PROBS), 1),
        Independent(Normal(LOC[:, :, None], 1.0), 2),
        Normal(LOC[:, 0], 1.0),
        WithoutMean(REAL),
    ],
    ids=["Bernoulli", "Categorical", "OneHot", "Gamma", "matrix", "scalar", "without a mean"],
)
def test_what_is_no_vector_of_reals_with_a_mean_is_not_widened(posterior: Distribution) -> None:
    assert widen(posterior, 2.0) is None


@pytest.mark.parametrize(
    "posterior",
    [WithoutMean(None), Independent(Cauchy(LOC, 1.0), 1), Independent(StudentT(1.5, LOC, 1.0), 1)],
    ids=["without a support", "Cauchy", "infinite variance"],
)
def test_a_mean_or_a_scale_that_does_not_exist_is_not_widened(posterior: Distribution) -> None:
    assert widen(posterior, 2.0) is None


def test_widening_is_three_in_two_dimensions_and_shrinks_with_their_root() -> None:
    one, two, eight, fifty = (widening_of(Importance(), standard_normal(d, like=torch.zeros(1))) for d in (1, 2, 8, 50))
    assert (one, two) == (3, 3)
    assert fifty == pytest.approx(1.4, abs=1e-12)
    assert eight - 1 == pytest.approx((two - 1) / 2, abs=1e-12)
    assert widening_of(Importance(widening=2.5), standard_normal(2, like=torch.zeros(1))) == 2.5
