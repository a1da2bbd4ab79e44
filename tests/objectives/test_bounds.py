"""Values of the bounds that are functions of the log-weights: against SciPy, and against each other."""

import itertools
import math
from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import strategies as st
from support.bounds import grouped, jackknife, sumo
from support.linear_gaussian_case import B, K, assert_mean, exact_log_p_x, linear_gaussian, observations, trials
from torch import Tensor

from elbo_bench.config import build
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.conformance import ObjectiveSubject
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import Draws, draw_for
from elbo_bench.errors import UsageError
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_sum_exp_of_others, weighted_sum, without_each
from elbo_bench.objectives.elbo_mc import ELBOMC
from elbo_bench.objectives.iwae import IWAE

M, K_GROUP = 2, 3
S = M * K_GROUP
LOG_W = np.random.default_rng(4).normal(size=(S, B)) * 2 - 30
COIN = Noise(1, "coin")


def draws_with(log_w: np.ndarray) -> Draws:
    count, size = log_w.shape
    zeros = torch.zeros(count, size, dtype=torch.float64)
    normal = DiagonalNormal(zeros[0, :, None], zeros[0, :, None] + 1)
    z = torch.zeros(count, size, 1, dtype=torch.float64)
    return Draws(z, torch.from_numpy(log_w), zeros, zeros, normal, normal, COIN)


def value(name: str, log_w: np.ndarray = LOG_W, **fields: object) -> np.ndarray:
    return build("objective", name, **fields)(draws_with(log_w)).numpy()


def log_mean_exp(log_w: np.ndarray, power: float = 1.0) -> np.ndarray:
    return scipy.special.logsumexp(power * log_w, 0) - math.log(len(log_w))


def riemann(log_w: np.ndarray, betas: list[float], side: int) -> np.ndarray:
    total = np.zeros(log_w.shape[1])
    for ends in itertools.pairwise(betas):
        share = scipy.special.softmax(ends[side] * log_w, axis=0)
        total += (ends[1] - ends[0]) * (share * log_w).sum(0)
    return total


def roulette(log_w: np.ndarray) -> np.ndarray:
    return sumo(log_w, scipy.special.ndtr(COIN.normal((1, log_w.shape[1]), dtype=torch.float64)[0].numpy()))


FORMULAS: dict[str, tuple[dict[str, object], Callable[[np.ndarray], np.ndarray]]] = {
    "elbo_mc": ({}, lambda lw: lw.mean(0)),
    "stl": ({}, lambda lw: lw.mean(0)),
    **{name: ({}, log_mean_exp) for name in ("iwae", "iwae_stl", "dreg", "rws", "rws_dreg", "vimco")},
    "miwae": (
        {"num_samples": K_GROUP, "num_estimates": M},
        lambda lw: np.mean([log_mean_exp(part) for part in np.split(lw, M)], 0),
    ),
    "piwae": ({"num_samples": K_GROUP, "num_estimates": M}, log_mean_exp),
    "ciwae": ({"beta": 0.2}, lambda lw: 0.2 * lw.mean(0) + 0.8 * log_mean_exp(lw)),
    "vr": ({"alpha": 0.4}, lambda lw: log_mean_exp(lw, 0.6) / 0.6),
    "vr_max": ({}, lambda lw: lw.max(0)),
    "vr_iwae_dreg": ({"alpha": 0.4}, lambda lw: log_mean_exp(lw, 0.6) / 0.6),
    "jackknife": ({"order": 2}, lambda lw: jackknife(lw, 2)),
    "tvo": (
        {"num_partitions": 4, "first_beta": 0.008},
        lambda lw: riemann(lw, [0, 0.008, 0.04, 0.2, 1], 0),
    ),
    "cubo": ({"order": 3.0}, lambda lw: log_mean_exp(lw, 3) / 3),
    "sumo": ({}, roulette),
}
every_formula = pytest.mark.parametrize(
    ("name", "fields", "formula"), [(name, *each) for name, each in FORMULAS.items()], ids=FORMULAS
)


def sized(name: str, fields: dict[str, object], count: int = S) -> dict[str, object]:
    return fields if "num_samples" in fields else {"num_samples": count, **fields}


@every_formula
@pytest.mark.parametrize("offset", [0.0, 900.0, -1e4])
def test_a_bound_is_its_formula(name: str, fields: dict, formula: Callable, offset: float) -> None:
    found = value(name, LOG_W + offset, **sized(name, fields))
    np.testing.assert_allclose(found, formula(LOG_W) + offset, rtol=1e-12, atol=1e-9)


@every_formula
def test_weights_that_are_all_equal_give_that_weight(name: str, fields: dict, formula: Callable) -> None:
    np.testing.assert_allclose(value(name, np.full((S, B), -7.25), **sized(name, fields)), -7.25, rtol=1e-13)


def test_each_bound_meets_the_others_where_it_should() -> None:
    same = [
        (("miwae", {"num_samples": 1, "num_estimates": S}), ("elbo_mc", {"num_samples": S})),
        (("miwae", {"num_samples": S, "num_estimates": 1}), ("iwae", {"num_samples": S})),
        (("piwae", {"num_samples": S, "num_estimates": 1}), ("iwae", {"num_samples": S})),
        (("ciwae", {"num_samples": S, "beta": 0.0}), ("iwae", {"num_samples": S})),
        (("ciwae", {"num_samples": S, "beta": 1.0}), ("elbo_mc", {"num_samples": S})),
        (("vr", {"num_samples": S, "alpha": 0.0}), ("iwae", {"num_samples": S})),
        (("vr", {"num_samples": S, "alpha": 1.0}), ("elbo_mc", {"num_samples": S})),
        (("jackknife", {"num_samples": S, "order": 0}), ("iwae", {"num_samples": S})),
        (("cubo", {"num_samples": S, "order": 1.0}), ("iwae", {"num_samples": S})),
        (("tvo", {"num_samples": S, "num_partitions": 1}), ("elbo_mc", {"num_samples": S})),
    ]
    for (left, left_fields), (right, right_fields) in same:
        np.testing.assert_allclose(value(left, **left_fields), value(right, **right_fields), rtol=1e-13)


def test_the_renyi_bound_tends_to_the_elbo_and_to_the_largest_weight() -> None:
    np.testing.assert_allclose(value("vr", num_samples=S, alpha=1 - 1e-7), LOG_W.mean(0), rtol=1e-6)
    np.testing.assert_allclose(value("vr", num_samples=S, alpha=1 + 1e-7), LOG_W.mean(0), rtol=1e-6)
    np.testing.assert_allclose(value("vr", num_samples=S, alpha=-1e4), LOG_W.max(0), rtol=1e-4)
    np.testing.assert_allclose(value("vr", num_samples=S, alpha=1e4), LOG_W.min(0), rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 0.99, 1 - 1e-4, 1 - 1e-7, 1 - 1e-12, 1 + 1e-12, 1 + 1e-6, 1.01])
def test_the_renyi_bound_is_accurate_near_the_elbo_in_float32(alpha: float) -> None:
    log_w = np.random.default_rng(2).normal(size=(8, B)) * 5 - 100
    scaled = (1 - alpha) * (log_w - log_w.mean(0))
    exact = log_w.mean(0) + np.log1p(np.expm1(scaled).mean(0)) / (1 - alpha)
    for name in ("vr", "vr_iwae_dreg") if alpha < 1 else ("vr",):
        draws = draws_with(log_w)
        single = [each.float() for each in (draws.z, draws.log_p_x_given_z, draws.log_p_z, draws.log_q_z_given_x)]
        with torch.no_grad():
            found = build("objective", name, num_samples=8, alpha=alpha)(Draws(*single))
        np.testing.assert_allclose(found, exact, atol=3e-5)
        np.testing.assert_allclose(value(name, log_w, num_samples=8, alpha=alpha), exact, rtol=1e-12)


@pytest.mark.parametrize("gone", [[0], [1], [5], [0, 1, 2, 3, 4]])
def test_sumo_does_without_samples_of_weight_zero(gone: list[int]) -> None:
    log_w = LOG_W.copy()
    log_w[gone] = -math.inf
    draws = draws_with(log_w)
    objective = build("objective", "sumo", num_samples=S)
    with torch.no_grad():
        found = objective(draws)
    if gone == [0, 1, 2, 3, 4]:
        assert (
            found.isinf().all()
        )  # the last step is from nothing to something, and where it is not taken all is nothing
    else:
        assert found.isfinite().all()
        np.testing.assert_allclose(found, roulette(np.where(np.isinf(log_w), -1e6, log_w)), rtol=1e-9)


weights = st.lists(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=2), min_size=3, max_size=7)


@hypothesis.given(log_w=weights)
@trials(60)
def test_bounds_of_one_draw_are_in_order(log_w: list[list[float]]) -> None:
    given, size = np.array(log_w), len(log_w)
    renyi = [value("vr", given, num_samples=size, alpha=alpha) for alpha in (-3.0, -0.5, 0.0, 0.3, 0.9, 1.0, 2.0)]
    for higher, lower in itertools.pairwise([value("vr_max", given, num_samples=size), *renyi]):
        assert (lower <= higher + 1e-9).all()
    l_k = value("iwae", given, num_samples=size)
    for partitions in (1, 2, 5):
        left, right = (
            value("tvo", given, num_samples=size, num_partitions=partitions, side=side) for side in ("left", "right")
        )
        assert (given.mean(0) <= left + 1e-9).all()
        assert (left <= l_k + 1e-9).all()
        assert (l_k <= right + 1e-9).all()
    chi = [value("cubo", given, num_samples=size, order=order) for order in (1.0, 2.0, 5.0)]
    for lower, higher in itertools.pairwise([l_k, *chi, given.max(0)]):
        assert (lower <= higher + 1e-9).all()
    first = value("jackknife", given, num_samples=size, order=1)
    assert (first >= l_k - 1e-9).all()  # as the mean of the leave-one-out L_{K-1} is at most L_K


@hypothesis.given(log_w=weights)
@trials(40)
def test_the_sum_over_all_others_is_what_is_left_without_one(log_w: list[list[float]]) -> None:
    given = np.array(log_w) * 20
    given[0, 0] = -math.inf
    found = log_sum_exp_of_others(torch.from_numpy(given)).numpy()
    expected = [scipy.special.logsumexp(np.delete(given, k, 0), axis=0) for k in range(len(given))]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    rest = torch.stack(list(without_each(torch.from_numpy(given))))
    np.testing.assert_array_equal(rest, [np.delete(given, k, 0) for k in range(len(given))])


def test_the_others_of_a_single_weight_are_nothing_and_have_no_gradient() -> None:
    log_w = torch.tensor([[0.5, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64, requires_grad=True)
    others = log_sum_exp_of_others(log_w)
    np.testing.assert_array_equal(others.detach(), [[-math.inf, -math.inf], [0.5, -math.inf]])
    (gradient,) = torch.autograd.grad(others[1, 0], log_w)
    np.testing.assert_array_equal(gradient, [[1, 0], [0, 0]])


def test_a_weighted_sum_passes_over_what_has_no_weight_and_holds_the_weights() -> None:
    shares = torch.tensor([[0.0, 0.25], [0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([[-math.inf, 2.0], [3.0, math.nan]], dtype=torch.float64, requires_grad=True)
    total = weighted_sum(shares, values)
    np.testing.assert_array_equal(total.detach(), [1.5, 0.5])
    total.sum().backward()
    np.testing.assert_array_equal(values.grad, [[0, 0.25], [0.5, 0]])
    assert shares.grad is None
    assert weighted_sum(torch.ones(1), torch.tensor([math.nan])).isnan()


def test_the_partitions_of_the_path_are_even_in_log_beta() -> None:
    assert build("objective", "tvo", num_partitions=1).betas == (0.0, 1.0)
    assert build("objective", "tvo", num_partitions=2).betas == (0.0, 0.025, 1.0)
    five = build("objective", "tvo", num_partitions=5, first_beta=1e-4).betas
    np.testing.assert_allclose(five, [0, 1e-4, 1e-3, 1e-2, 1e-1, 1], rtol=1e-12)


def test_directions_follow_the_fields() -> None:
    said = {
        ("vr", "alpha", 0.0): "lower",
        ("vr", "alpha", -0.1): "none",
        ("vr", "alpha", 2.0): "lower",
        ("jackknife", "order", 0): "lower",
        ("jackknife", "order", 1): "none",
        ("tvo", "side", "left"): "lower",
        ("tvo", "side", "right"): "none",
        ("cubo", "order", 2.0): "none",
        ("beta", "beta", 0.0): "none",
    }
    for (name, field, given), direction in said.items():
        assert build("objective", name, **{field: given}).direction == direction, (name, given)
    assert build("objective", "vr_max").direction == "none"
    lower = ("stl", "iwae_stl", "dreg", "rws", "rws_dreg", "vimco", "miwae", "piwae", "ciwae", "sumo", "free_bits")
    for name in lower:
        assert build("objective", name).direction == "lower"


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("jackknife", {"num_samples": 2, "order": 2}, "num_samples=2 must be more than order=2"),
        ("jackknife", {"order": 3}, "objective.order=3"),
        ("vimco", {"num_samples": 1}, "objective.num_samples=1"),
        ("tvo", {"num_samples": 1}, "objective.num_samples=1"),
        ("tvo", {"first_beta": 1.0}, "objective.first_beta=1.0"),
        ("tvo", {"num_partitions": 0}, "objective.num_partitions=0"),
        ("cubo", {"order": 0.5}, "objective.order=0.5"),
        ("ciwae", {"beta": 1.5}, "objective.beta=1.5"),
        ("vr_iwae_dreg", {"alpha": 1.0}, "objective.alpha=1.0"),
        ("vr", {"alpha": math.nan}, "objective.alpha"),
        ("enumerated", {"num_samples": 2}, "objective.num_samples=2"),
        ("miwae", {"num_estimates": 0}, "objective.num_estimates=0"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(name: str, fields: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build("objective", name, **fields)


def test_groups_of_the_wrong_size_are_refused() -> None:
    for name in ("miwae", "piwae"):
        objective = build("objective", name, num_samples=K_GROUP, num_estimates=M)
        assert objective.samples_required == S
        with pytest.raises(ValueError, match="2 groups of 3 samples need 6 samples, not 5"):
            objective(draws_with(LOG_W[:5]))


def test_sumo_needs_noise_of_its_own() -> None:
    draws = draws_with(LOG_W)
    with pytest.raises(ValueError, match="have no noise"):
        build("objective", "sumo")(Draws(draws.z, draws.log_p_x_given_z, draws.log_p_z, draws.log_q_z_given_x))


def test_sumo_is_unbiased_for_l_k_over_its_truncation_and_often_stops_early() -> None:
    # False-fail 1e-8; sees a bias of 0.05 nats where the steps add up to 1.6.
    replications, objective = 120_000, build("objective", "sumo", num_samples=S)
    values = objective(draws_with(np.repeat(LOG_W[:, :1], replications, 1))).numpy()
    steps = np.diff([log_mean_exp(LOG_W[:k, :1]) for k in range(1, S + 1)], axis=0)
    assert np.abs(steps).sum() > 0.5
    assert_mean(values[:, None], log_mean_exp(LOG_W[:, :1]), detects=0.05)
    assert len(np.unique(values.round(9))) == S - 1  # T = 1 .. K - 1


def test_the_jackknife_has_less_bias_than_l_k() -> None:
    # E L_K lies (8 standard errors and more) below log p(x) where the first order's mean is within a fifth of that.
    replications = 12_000
    x = observations().repeat_interleave(replications, 0)
    bias, wide = {}, linear_gaussian("full", posterior="best")
    with torch.no_grad():
        wide.raw_scale.diagonal().add_(0.4)  # the weights of a q that is wider than the posterior are bounded
        draws = draw_for(IWAE(num_samples=16), wide, x, Noise(0, "latent", 3))
        for order in (0, 1, 2):
            values = build("objective", "jackknife", num_samples=16, order=order)(draws).view(B, replications)
            errors = values.mean(1).numpy() - exact_log_p_x()
            bias[order] = errors, values.std(1).numpy() / math.sqrt(replications)
    assert (bias[0][0] < -8 * bias[0][1]).all()
    for order in (1, 2):
        assert (np.abs(bias[order][0]) < 0.2 * np.abs(bias[0][0]) + 5 * bias[order][1]).all()


def test_under_exact_expectations_the_path_brackets_log_p_x() -> None:
    # pi_beta of a normal q and a normal posterior is normal: every term is in closed form, and so are both sums.
    log_p, (m, s), (n, t) = -3.2, (0.4, 1.3), (-0.2, 0.7)

    def expected_log_w(beta: float) -> float:
        precision = (1 - beta) / s**2 + beta / t**2
        mean = ((1 - beta) * m / s**2 + beta * n / t**2) / precision
        second = 1 / precision

        def log_normal(loc: float, scale: float) -> float:
            return -0.5 * math.log(2 * math.pi * scale**2) - ((mean - loc) ** 2 + second) / (2 * scale**2)

        return log_p + log_normal(n, t) - log_normal(m, s)

    gaps = []
    for partitions in (1, 3, 10, 40):
        betas = build("objective", "tvo", num_partitions=partitions).betas
        widths = np.diff(betas)
        left = sum(w * expected_log_w(b) for w, b in zip(widths, betas[:-1], strict=True))
        right = sum(w * expected_log_w(b) for w, b in zip(widths, betas[1:], strict=True))
        assert left < log_p < right
        gaps.append(right - left)
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))
    # And the objective tends to its left sum: 400,000 samples, false-fail 1e-9, sees 0.02 nats.
    z = m + s * np.random.default_rng(0).normal(size=(400_000, 1))
    log_w = log_p + scipy.stats.norm.logpdf(z, n, t) - scipy.stats.norm.logpdf(z, m, s)
    found = value("tvo", log_w, num_samples=len(log_w), num_partitions=3)
    betas = build("objective", "tvo", num_partitions=3).betas
    exact = sum(w * expected_log_w(b) for w, b in zip(np.diff(betas), betas[:-1], strict=True))
    np.testing.assert_allclose(found, exact, atol=0.02)


def test_free_bits_counts_each_dimension_as_at_least_the_floor() -> None:
    model = linear_gaussian()
    x: Tensor = observations()
    objective = build("objective", "free_bits", num_samples=K, free_nats=0.7)
    draws = draw_for(objective, model, x, COIN)
    kl = draws.analytic_kl_per_dim().detach().numpy()
    assert ((kl < 0.7).any(0) & (kl > 0.7).any(0)).any()
    expected = draws.log_p_x_given_z.detach().numpy().mean(0) - np.maximum(kl, 0.7).sum(-1)
    np.testing.assert_allclose(objective(draws).detach(), expected, rtol=1e-13)
    nothing = build("objective", "free_bits", num_samples=K, free_nats=0.0)
    elbo = build("objective", "elbo_analytic", num_samples=K)
    torch.testing.assert_close(nothing(draws), elbo(draws), rtol=1e-13, atol=0)
    assert (objective(draws) <= elbo(draws)).all()


@pytest.mark.parametrize("kl", ["analytic", "mc"])
def test_capacity_punishes_a_rate_on_either_side_of_it(kl: str) -> None:
    draws = draw_for(ELBOMC(num_samples=K), linear_gaussian(), observations(), COIN)
    ratio = (draws.log_q_z_given_x - draws.log_p_z).mean(0)
    rate = (draws.analytic_kl() if kl == "analytic" else ratio).detach().numpy()
    distortion = -draws.log_p_x_given_z.detach().numpy().mean(0)
    middle = float(np.median(rate))
    assert (rate < middle).any()
    assert (rate > middle).any()
    for gamma in (0.5, 30.0):
        objective = build("objective", "capacity", num_samples=K, gamma=gamma, capacity=middle, kl=kl)
        expected = -distortion - gamma * np.abs(rate - middle)
        np.testing.assert_allclose(objective(draws).detach(), expected, rtol=1e-12)
        assert objective.direction == "none"


def test_the_weights_of_groups_are_those_of_their_own_group() -> None:
    np.testing.assert_allclose(grouped(LOG_W, M).sum(0), 1, rtol=1e-13)


# What an objective is: an objective that is wrongly taken for another kind would escape a law.
DECLARED: dict[str, set[str]] = {
    "beta": set(),
    "beta_tc": {"batch"},
    "capacity": set(),
    "ciwae": {"of log w"},
    "cubo": {"of log w", "gradient own"},
    "dreg": {"of log w", "gradient unbiased"},
    "elbo_analytic": set(),
    "elbo_entropy": set(),
    "elbo_mc": {"of log w"},
    "enumerated": {"enumerated"},
    "free_bits": set(),
    "info_vae": {"batch"},
    "iwae": {"of log w"},
    "iwae_stl": {"of log w", "gradient decoder"},
    "jackknife": {"of log w"},
    "miwae": {"of log w"},
    "piwae": {"of log w", "gradient decoder"},
    "rws": {"of log w", "gradient decoder", "no path"},
    "rws_dreg": {"of log w", "gradient decoder"},
    "stl": {"of log w", "gradient unbiased"},
    "sumo": {"of log w", "gradient decoder"},
    "tvo": {"of log w", "gradient decoder", "no path"},
    "vimco": {"of log w", "gradient unbiased", "no path"},
    "vr": {"of log w"},
    "vr_iwae_dreg": {"of log w", "gradient unbiased"},
    "vr_max": {"of log w"},
}


def test_each_objective_is_of_the_kind_that_its_laws_apply_to() -> None:
    assert set(DECLARED) == set(Catalogue.of().names("objective"))
    randomised = set()
    for name, expected in DECLARED.items():
        objective = build("objective", name, **({"num_train": 100} if name == "beta_tc" else {}))
        subject = ObjectiveSubject(objective)
        found = {
            "batch": objective.scope == "batch",
            "no path": not objective.reparameterised,
            "enumerated": objective.latents == "enumerated",
            "of log w": subject.of_log_w,
            f"gradient {objective.gradient}": objective.gradient != "value",
        }
        assert {word for word, holds in found.items() if holds} == expected, name
        randomised |= {name} if subject.randomised else set()
    assert randomised == {"sumo"}
