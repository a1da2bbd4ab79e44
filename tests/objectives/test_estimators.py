"""What each objective's gradient is, sample by sample: three weights, computed here once more by loops in NumPy.

For sample k of an example, D is the gradient of log p(x, z_k) in decoder and prior at a fixed z_k, P the one that flows
through z_k to the encoder, with q's own parameters held fixed, and S the score of q. An estimator is d D + p P + s S.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import torch
from support.bounds import grouped, jackknife, softmax, sumo
from support.linear_gaussian_case import B, K, linear_gaussian, observations
from torch import Tensor

from elbo_bench.config import build
from elbo_bench.draws import Draws, draw, draw_for
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.dreg import DReG
from elbo_bench.objectives.elbo_mc import ELBOMC
from elbo_bench.objectives.iwae import IWAE

NOISE = Noise(3, "latent", 1)
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]


def pathwise(weights: np.ndarray) -> Weights:
    """An estimator that is the gradient of a value with these derivatives in the log-weights."""
    return weights, weights, -weights


def numeric(value: Callable[[np.ndarray], np.ndarray], log_w: np.ndarray) -> np.ndarray:
    """Return the derivative of each example's value in each of its log-weights, by central differences.

    Of fourth order: the step may be so long that rounding, in which processors differ, is far below the tolerance.
    """
    found = np.zeros_like(log_w)
    for k in range(len(log_w)):
        step = np.zeros_like(log_w)
        step[k] = 1e-3
        near, far = (value(log_w + far * step) - value(log_w - far * step) for far in (1, 2))
        found[k] = (8 * near - far) / 12e-3
    return found


def vimco_signal(log_w: np.ndarray) -> np.ndarray:
    count = len(log_w)
    signal = np.zeros_like(log_w)
    for k in range(count):
        changed = log_w.copy()
        changed[k] = np.delete(log_w, k, 0).mean(0)
        signal[k] = scipy.special.logsumexp(log_w, 0) - scipy.special.logsumexp(changed, 0)
    return signal


def tvo_weights(log_w: np.ndarray, betas: list[float], side: int) -> Weights:
    decoder, score = np.zeros_like(log_w), np.zeros_like(log_w)
    for low, high in itertools.pairwise(betas):
        beta = (low, high)[side]
        share = softmax(log_w, beta)
        centred = log_w - (share * log_w).sum(0)
        # E[grad log w] + Cov(grad ((1 - beta) log q + beta log p), log w)
        decoder += (high - low) * share * (1 + beta * centred)
        score += (high - low) * share * (-1 + (1 - beta) * centred)
    return decoder, np.zeros_like(log_w), score


def dreg_like(log_w: np.ndarray, alpha: float) -> Weights:
    w = softmax(log_w, 1 - alpha)
    return w, alpha * w + (1 - alpha) * w**2, 0 * w


M, K_GROUP = 2, 3
CASES: dict[str, tuple[Objective, Callable[[np.ndarray], Weights]]] = {
    "elbo_mc": (ELBOMC(num_samples=K), lambda lw: pathwise(np.full_like(lw, 1 / K))),
    "iwae": (IWAE(num_samples=K), lambda lw: pathwise(softmax(lw))),
    "stl": (build("objective", "stl", num_samples=K), lambda lw: (np.full_like(lw, 1 / K),) * 2 + (0 * lw,)),
    "iwae_stl": (build("objective", "iwae_stl", num_samples=K), lambda lw: (softmax(lw), softmax(lw), 0 * lw)),
    "dreg": (build("objective", "dreg", num_samples=K), lambda lw: dreg_like(lw, 0.0)),
    "rws": (build("objective", "rws", num_samples=K), lambda lw: (softmax(lw), 0 * lw, softmax(lw))),
    "rws_dreg": (
        build("objective", "rws_dreg", num_samples=K),
        lambda lw: (softmax(lw), softmax(lw) - softmax(lw) ** 2, 0 * lw),
    ),
    "vimco": (
        build("objective", "vimco", num_samples=K),
        lambda lw: (softmax(lw), 0 * lw, vimco_signal(lw) - softmax(lw)),
    ),
    "miwae": (
        build("objective", "miwae", num_samples=K_GROUP, num_estimates=M),
        lambda lw: pathwise(grouped(lw, M)),
    ),
    "piwae": (
        build("objective", "piwae", num_samples=K_GROUP, num_estimates=M),
        lambda lw: (softmax(lw), grouped(lw, M), -grouped(lw, M)),
    ),
    "ciwae": (
        build("objective", "ciwae", num_samples=K, beta=0.3),
        lambda lw: pathwise(0.3 / K + 0.7 * softmax(lw)),
    ),
    "vr": (build("objective", "vr", num_samples=K, alpha=0.3), lambda lw: pathwise(softmax(lw, 0.7))),
    "vr alpha=-1.5": (build("objective", "vr", num_samples=K, alpha=-1.5), lambda lw: pathwise(softmax(lw, 2.5))),
    "vr alpha=1": (build("objective", "vr", num_samples=K, alpha=1.0), lambda lw: pathwise(np.full_like(lw, 1 / K))),
    "vr alpha=3": (build("objective", "vr", num_samples=K, alpha=3.0), lambda lw: pathwise(softmax(lw, -2.0))),
    "vr_max": (
        build("objective", "vr_max", num_samples=K),
        lambda lw: pathwise((lw == lw.max(0)).astype(float)),
    ),
    "vr_iwae_dreg": (
        build("objective", "vr_iwae_dreg", num_samples=K, alpha=0.3),
        lambda lw: dreg_like(lw, 0.3),
    ),
    "jackknife 1": (
        build("objective", "jackknife", num_samples=K),
        lambda lw: pathwise(numeric(lambda v: jackknife(v, 1), lw)),
    ),
    "jackknife 2": (
        build("objective", "jackknife", num_samples=K, order=2),
        lambda lw: pathwise(numeric(lambda v: jackknife(v, 2), lw)),
    ),
    "tvo left": (
        build("objective", "tvo", num_samples=K, num_partitions=3, first_beta=0.04),
        lambda lw: tvo_weights(lw, [0, 0.04, 0.2, 1], 0),
    ),
    "tvo right": (
        build("objective", "tvo", num_samples=K, num_partitions=3, first_beta=0.04, side="right"),
        lambda lw: tvo_weights(lw, [0, 0.04, 0.2, 1], 1),
    ),
    "cubo": (
        build("objective", "cubo", num_samples=K, order=2.5),
        lambda lw: (softmax(lw), -softmax(lw, 2.5), softmax(lw, 2.5)),
    ),
}
every_case = pytest.mark.parametrize(("objective", "weights"), CASES.values(), ids=CASES)


def flat(gradients, parameters) -> np.ndarray:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).numpy()


def pieces(model, x: Tensor, count: int, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
    """Return log-weights `[K, B]` and the gradients D, P, S of every sample, `[3, K, B, P]`."""
    parameters = list(model.parameters())
    posterior = model.posterior(x)
    z = posterior.transport(noise.normal((count, len(x), model.latent_dim), dtype=torch.float64))
    fixed = z.detach()
    moving = fixed.clone().requires_grad_()
    held = type(posterior)(posterior.base_dist.loc.detach(), posterior.base_dist.scale.detach())
    decoder = model.likelihood(fixed).log_prob(x) + model.prior().log_prob(fixed)
    score = posterior.log_prob(fixed)
    through = model.likelihood(moving).log_prob(x) + model.prior().log_prob(moving) - held.log_prob(moving)
    (by_z,) = torch.autograd.grad(through.sum(), moving)
    path = (z * by_z).sum(-1)
    found = np.zeros((3, count, len(x), sum(p.numel() for p in parameters)))
    for number, part in enumerate((decoder, path, score)):
        for k in range(count):
            for b in range(len(x)):
                gradients = torch.autograd.grad(part[k, b], parameters, retain_graph=True, allow_unused=True)
                found[number, k, b] = flat(gradients, parameters)
    return (decoder - score).detach().numpy(), found


@every_case
def test_an_estimator_is_its_three_weights_sample_by_sample(
    objective: Objective, weights: Callable[[np.ndarray], Weights]
) -> None:
    model, x = linear_gaussian(), observations()
    by_example = np.array([0.7, -1.3, 2.0, 0.4])
    log_w, (decoder, path, score) = pieces(model, x, objective.samples_required, NOISE)
    d, p, s = (each[..., None] for each in weights(log_w))
    expected = (by_example[:, None] * (d * decoder + p * path + s * score).sum(0)).sum(0)
    value = objective(draw_for(objective, model, x, NOISE))
    parameters = list(model.parameters())
    found = flat(
        torch.autograd.grad((value * torch.from_numpy(by_example)).sum(), parameters, allow_unused=True), parameters
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * scale)
    assert scale > 0.1


def test_sumo_ascends_its_value_in_the_decoder_and_descends_its_square_in_the_encoder() -> None:
    model, x, objective = linear_gaussian(), observations(), build("objective", "sumo", num_samples=K)
    stops = set()
    for position in range(4):
        noise = Noise(3, "latent", position)
        uniform = scipy.special.ndtr(noise.child("bound").normal((1, B), dtype=torch.float64)[0].numpy())
        stops |= {min(K - 1, int(1 / u)) for u in uniform}
        log_w, (decoder, path, score) = pieces(model, x, K, noise)
        value = objective(draw_for(objective, model, x, noise))
        np.testing.assert_allclose(value.detach(), sumo(log_w, uniform), rtol=1e-12)
        slope = numeric(lambda lw, u=uniform: sumo(lw, u), log_w)[..., None]
        ascends = sumo(log_w, uniform)[None, :, None]
        expected = (slope * decoder - ascends * slope * (path - score)).sum((0, 1))
        parameters = list(model.parameters())
        found = flat(torch.autograd.grad(value.sum(), parameters, allow_unused=True), parameters)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert len(stops) > 2


def gradients(objective: Objective, model=None, noise: Noise = NOISE) -> dict[str, Tensor]:
    model = model or linear_gaussian()
    value = objective(draw_for(objective, model, observations(), noise))
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


ENCODER = ("encoder.weight", "encoder.bias", "raw_scale")


def test_stl_for_k_samples_is_dreg_and_rws_dreg_together() -> None:
    stl, dreg, rws = (gradients(build("objective", name, num_samples=K)) for name in ("iwae_stl", "dreg", "rws_dreg"))
    for name in ENCODER:
        torch.testing.assert_close(stl[name], dreg[name] + rws[name], rtol=1e-12, atol=1e-12)
        assert rws[name].abs().max() > 1e-3


def test_the_decoder_gradients_of_all_estimators_of_l_k_are_one() -> None:
    plain = gradients(IWAE(num_samples=K))
    for other in ("iwae_stl", "dreg", "rws", "rws_dreg", "vimco"):
        found = gradients(build("objective", other, num_samples=K))
        for name in set(plain) - set(ENCODER):
            torch.testing.assert_close(found[name], plain[name], rtol=1e-11, atol=1e-11)


def test_with_one_sample_stl_dreg_and_their_like_are_one() -> None:
    stl = gradients(build("objective", "stl"))
    for other in ("iwae_stl", "dreg", "vr_iwae_dreg"):
        found = gradients(build("objective", other, num_samples=1))
        for name in stl:
            torch.testing.assert_close(found[name], stl[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "limit"), [(0.0, "dreg"), (1 - 1e-9, "stl")])
def test_the_renyi_dreg_goes_from_dreg_to_stl(alpha: float, limit: str) -> None:
    found = gradients(build("objective", "vr_iwae_dreg", num_samples=K, alpha=alpha))
    for name, expected in gradients(build("objective", limit, num_samples=K)).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["stl", "iwae_stl", "dreg", "rws_dreg", "vr_iwae_dreg"])
def test_at_the_posterior_a_path_gradient_is_zero_draw_by_draw(name: str) -> None:
    found = gradients(build("objective", name, num_samples=K), linear_gaussian("full", posterior="best"))
    assert max(found[each].abs().max() for each in ENCODER) < 1e-9
    plain = gradients(ELBOMC(num_samples=K), linear_gaussian("full", posterior="best"))
    assert min(plain[each].abs().max() for each in ENCODER) > 0.05


def test_an_estimator_changes_no_value_and_none_has_a_gradient_without_a_graph() -> None:
    with torch.no_grad():
        for objective, _ in CASES.values():
            value = objective(draw_for(objective, linear_gaussian(), observations(), NOISE))
            assert not value.requires_grad
    for objective, _ in CASES.values():
        with_graph = objective(draw_for(objective, linear_gaussian(), observations(), NOISE))
        with torch.no_grad():
            without = objective(draw_for(objective, linear_gaussian(), observations(), NOISE))
        torch.testing.assert_close(with_graph.detach(), without, rtol=1e-14, atol=0)


def test_draws_serve_one_estimator_of_a_scaled_path() -> None:
    draws = draw(linear_gaussian(), observations(), K, NOISE)
    DReG(num_samples=K)(draws)
    with pytest.raises(ValueError, match="draw again for a second estimator"):
        DReG(num_samples=K)(draws)


def test_a_weight_of_zero_stops_no_estimator() -> None:
    for name, (objective, _) in CASES.items():
        if name in ("elbo_mc", "stl", "ciwae", "vr alpha=1", "vr alpha=3") or name.startswith("tvo left"):
            continue  # the mean of the log-weights is -inf there
        draws = draw_for(objective, linear_gaussian(), observations(), NOISE)
        gone = torch.zeros_like(draws.log_p_z)
        gone[1] = -math.inf
        value = objective(dataclasses.replace(draws, log_p_z=draws.log_p_z + gone))
        assert value.isfinite().all(), name
        (gradient,) = torch.autograd.grad(value.sum(), draws.log_q_z_given_x, allow_unused=True)
        assert gradient is None or gradient.isfinite().all(), name


def test_vimco_has_a_finite_gradient_where_all_others_have_a_weight_of_zero() -> None:
    draws = draw_for(build("objective", "vimco", num_samples=2), linear_gaussian(), observations(), NOISE)
    gone = torch.zeros_like(draws.log_p_z)
    gone[1] = -math.inf
    draws = dataclasses.replace(draws, log_p_z=draws.log_p_z + gone)
    value = build("objective", "vimco", num_samples=2)(draws)
    (score,) = torch.autograd.grad(value.sum(), draws.score_of_q)
    assert value.isfinite().all()
    assert score.isfinite().all()


# --- exact expectations: a latent of three values, every pair of samples, no statistics ---

LOG_JOINT = torch.tensor([-1.1, -0.3, -2.4], dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Three:
    """Three values of z, one example; logits of q and log p(x, z) are parameters."""

    logits: Tensor = dataclasses.field(
        default_factory=lambda: torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    )
    log_joint: Tensor = dataclasses.field(default_factory=lambda: LOG_JOINT.clone().requires_grad_())

    def draws(self, values: tuple[int, ...]) -> Draws:
        q = torch.distributions.Categorical(logits=self.logits[None])
        z = torch.tensor(values)[:, None]
        return Draws(z, self.log_joint[z], torch.zeros(z.shape, dtype=torch.float64), q.log_prob(z), q, None)

    def expectation(self, objective: Objective, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the expected value and gradients, over all 3^K outcomes."""
        probabilities = self.logits.softmax(0).detach()
        totals = [torch.zeros((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64), torch.zeros(3).double()]
        for outcome in np.ndindex(*[3] * count):
            value = objective(self.draws(outcome))
            found = torch.autograd.grad(value.sum(), [self.logits, self.log_joint], allow_unused=True)
            chance = probabilities[list(outcome)].prod()
            for total, each in zip(totals, (value.detach()[0], *found), strict=True):
                total += chance * each
        return tuple(totals)

    def exact(self, bound: Callable[[Tensor], Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the same for a bound of the log-weights, by differentiating the expectation itself."""
        log_q = self.logits.log_softmax(0)
        total = torch.zeros((), dtype=torch.float64)
        for outcome in np.ndindex(*[3] * count):
            chosen = list(outcome)
            total = total + log_q[chosen].sum().exp() * bound((self.log_joint - log_q)[chosen])
        return (total.detach(), *torch.autograd.grad(total, [self.logits, self.log_joint]))


@pytest.mark.parametrize("count", [2, 4])
def test_vimco_is_unbiased_for_the_gradient_of_the_expected_l_k(count: int) -> None:
    found = Three().expectation(build("objective", "vimco", num_samples=count), count)
    expected = Three().exact(lambda log_w: log_w.logsumexp(0) - math.log(count), count)
    for mine, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-13)


def test_tvo_of_one_partition_has_the_elbo_s_gradient_less_one_part_in_k() -> None:
    # Its covariance is the plug-in one, with 1/K in place of 1/(K - 1), as in the paper; in the decoder it is exact.
    count = 3
    found = Three().expectation(build("objective", "tvo", num_samples=count, num_partitions=1), count)
    value, encoder, decoder = Three().exact(lambda log_w: log_w.mean(), count)
    torch.testing.assert_close(found[0], value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found[1], encoder * (count - 1) / count, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found[2], decoder, rtol=1e-12, atol=1e-13)


def test_wake_phi_tends_to_the_gradient_of_the_divergence_from_the_posterior() -> None:
    toy = Three()
    posterior = LOG_JOINT.softmax(0)
    truth = torch.autograd.grad((posterior * toy.logits.log_softmax(0)).sum(), toy.logits)[0]
    errors = [
        (toy.expectation(build("objective", "rws", num_samples=count), count)[1] - truth).abs().max()
        for count in (1, 2, 4, 7)  # 0.50, 0.39, 0.26, 0.16
    ]
    assert errors[0] > 0.1  # with one sample it is the expected score: zero
    assert all(later < 0.85 * earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.35 * errors[0]


def test_a_score_estimator_moves_neither_its_samples_nor_their_path() -> None:
    for name in ("rws", "vimco", "tvo"):
        objective = build("objective", name, num_samples=K)
        assert not draw_for(objective, linear_gaussian(), observations(), NOISE).z.requires_grad
