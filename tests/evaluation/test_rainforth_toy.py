"""How gradients of the encoder fare as K grows, on the Gaussian toy of Rainforth et al. (2018, section 4).

z ~ N(mu, I) and x|z ~ N(z, I) in 20 dimensions, q(z|x) = N(Ax + b, 2/3 I), all parameters a little off the optimum
A = I/2, b = mu/2. The gradient is that of the posterior's mean for one x, along the direction in which it is off; its
signal-to-noise ratio falls as 1/sqrt(K) for the importance-weighted bound and grows as sqrt(K) for DReG.
"""

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from elbo_bench.distributions import DiagonalNormal
from elbo_bench.draws import draw_for
from elbo_bench.evaluation.blocks import single_threaded
from elbo_bench.noise import Noise
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.dreg import DReG
from elbo_bench.objectives.iwae import IWAE
from elbo_bench.objectives.iwae_stl import IWAESTL

D = 20
OFF = 0.01
SCALE = math.sqrt(2 / 3)
SIZES = (16, 64, 256)
REPLICATES = 2000
_NUMBERS = np.random.default_rng(0)


def normal(*shape: int) -> Tensor:
    return torch.from_numpy(_NUMBERS.normal(size=shape))


TRUE_MEAN = normal(D)
X = TRUE_MEAN + math.sqrt(2) * normal(D)
MEAN = TRUE_MEAN + OFF * normal(D)
LOC = (torch.eye(D) / 2 + OFF * normal(D, D)) @ X + TRUE_MEAN / 2 + OFF * normal(D)
AWAY = LOC - (X + MEAN) / 2
"""Mean of q less that of the posterior, N((x + mu)/2, I/2)."""
LENGTH = float(AWAY.norm())
UP = -AWAY / LENGTH
"""Where the bounds rise."""


class Toy:
    """The model, with a mean of q of its own for each row: one backward pass, as many gradients."""

    def __init__(self, rows: int) -> None:
        self.loc = LOC.repeat(rows, 1).requires_grad_()

    def posterior(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc, torch.full_like(self.loc, SCALE))

    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(MEAN, torch.ones_like(MEAN))

    def likelihood(self, z: Tensor) -> Independent:
        return Independent(Normal(z, torch.ones_like(z)), 1)


def log_p_x() -> Tensor:
    return DiagonalNormal(MEAN, torch.full_like(MEAN, math.sqrt(2))).log_prob(X)


@functools.cache
@single_threaded()
def gradients(objective: Objective, replicates: int) -> tuple[Tensor, Tensor]:
    """Return R gradients along `UP`, and two numbers for each whose expectation is known to be zero.

    With the exact weights w = p(z|x)/q(z|x) and e the step of z along AWAY, in units of q's scale, they are the mean of
    w (e - E_p e), and its product with the mean of w - 1, less its expectation E_q[w^2 (e - E_p e)]/K. They
    explain most of what is noise in a mean of gradients at a large K, whatever the estimator: a mean that takes them
    into account is the same in expectation.
    """
    size = objective.samples_required
    second = (SCALE / (0.5 * math.sqrt(2.5))) ** D * math.exp(1.2 * LENGTH**2)  # E_q w^2; w^2 q is a normal again,
    expected = second * -0.6 * LENGTH / SCALE / size  # its mean 0.6 AWAY on the other side of the posterior's
    found, known = [], []
    rows = max(1, 8_000 // size)
    for chunk, start in enumerate(range(0, replicates, rows)):
        model = Toy(min(rows, replicates - start))
        draws = draw_for(objective, model, X.expand_as(model.loc), Noise(0, f"rainforth/{size}", chunk))
        (gradient,) = torch.autograd.grad(objective(draws).sum(), model.loc)
        found.append(gradient @ UP)
        with torch.no_grad():
            weights = (draws.log_w - log_p_x()).exp()
            step = ((draws.z - LOC) @ AWAY / LENGTH + LENGTH) / SCALE
            first = (weights * step).mean(0)
            known.append(torch.stack([first, first * (weights.mean(0) - 1) - expected], 1))
    return torch.cat(found), torch.cat(known)


def mean_with_error(values: Tensor, known: Tensor) -> tuple[float, float]:
    """Return the mean of values with numbers of expectation zero beside them, and its standard error."""
    design = torch.cat([torch.ones(len(known), 1), known], 1)
    coefficients = torch.linalg.lstsq(design, values[:, None]).solution[:, 0]
    rest = values - design @ coefficients
    covariance = torch.linalg.inv(design.mT @ design) * rest.square().sum() / (len(values) - 3)
    return float(coefficients[0]), math.sqrt(covariance[0, 0])


def slope(objective: type[Objective], replicates: int) -> tuple[float, float]:
    """Return the slope of log SNR over log K, by least squares, and its standard error."""
    logs, errors = [], []
    for size in SIZES:
        values, known = gradients(objective(num_samples=size), replicates)
        mean, error = mean_with_error(values, known)
        assert mean > 5 * error  # there is a signal, and it points where the bounds rise
        logs.append(math.log(mean / float(values.std())))
        fourth = float(((values - values.mean()) / values.std()).pow(4).mean())
        errors.append(math.hypot(error / mean, math.sqrt((fourth - 1) / 4 / replicates)))
    x = np.log(SIZES) - np.mean(np.log(SIZES))
    weights = x / (x @ x)
    return float(weights @ logs), float(np.hypot.reduce(weights * errors))


# At these K the slopes are not the limits yet: `here` is what 12,000 gradients at each K give, to within 0.005.
@pytest.mark.parametrize("replicates", [REPLICATES, pytest.param(12_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("objective", "law", "here"), [(IWAE, -0.5, -0.506), (DReG, 0.5, 0.454)], ids=["iwae", "dreg"])
def test_signal_to_noise_of_the_encoder_has_the_published_slope(
    objective: type[Objective], law: float, here: float, replicates: int
) -> None:
    """Fails a correct program with probability below 1e-6: 0.1 is five standard errors from what is expected."""
    found, error = slope(objective, replicates)
    print(f"{objective.__name__}: slope {found:.3f} +- {error:.3f}, law {law}")
    assert abs(here - law) + 5 * error < 0.1
    assert abs(found - law) < 0.1


@pytest.mark.parametrize("replicates", [REPLICATES, pytest.param(12_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", SIZES)
def test_the_bias_of_iwae_stl_is_seen_and_dreg_has_none(size: int, replicates: int) -> None:
    """Differences to IWAE from the same draws; |z| < 6 fails a correct program with probability 2e-9."""
    truth, known = gradients(IWAE(num_samples=size), replicates)
    unbiased, error = mean_with_error(gradients(DReG(num_samples=size), replicates)[0] - truth, known)
    biased, own_error = mean_with_error(gradients(IWAESTL(num_samples=size), replicates)[0] - truth, known)
    expected, _ = mean_with_error(truth, known)
    assert 9.1 * error < 0.5 * expected  # a bias of half the gradient would be seen with probability 0.999
    assert abs(unbiased) < 6 * error
    assert biased > 6 * own_error
    assert biased > 5 * expected  # and it is no small one


def test_the_known_numbers_are_zero_in_expectation() -> None:
    """|z| < 6 for each of six: false failures below 2e-8 in all."""
    for size in SIZES:
        _, known = gradients(IWAE(num_samples=size), REPLICATES)
        z = known.mean(0) / (known.std(0) / math.sqrt(len(known)))
        assert (z.abs() < 6).all()
