"""A small linear Gaussian model of which everything is known, and the z-tests that are asked of it.

K samples, B examples, L latent and D data dimensions all differ, so that a sum over the wrong axis cannot pass.
"""

import math

import hypothesis
import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.models.linear_gaussian import LinearGaussian
from elbo_bench.noise import Noise, NormalSource

K, B, L, D = 7, 4, 3, 5
SIGMA = 0.6
_NUMBERS = np.random.default_rng(20)
W = _NUMBERS.normal(size=(D, L)) * 0.8
MU = _NUMBERS.normal(size=D)
X = (_NUMBERS.normal(size=(B, L)) @ W.T + MU + SIGMA * _NUMBERS.normal(size=(B, D))).round(3)


def trials(number: int) -> hypothesis.settings:
    """The same trials in every run, and no clock: the machine may be busy."""
    return hypothesis.settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


class Fixed:
    """A source of noise that hands out what it was given."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def normal(self, shape, *, dtype, device) -> Tensor:
        assert dtype is torch.float64
        return self.noise.expand(tuple(shape))

    def torch_seed(self) -> int:
        raise AssertionError("no seed is needed where noise is transported")

    def child(self, purpose: str) -> NormalSource:
        return Noise(0, purpose)


def cubature(num_dims: int = L) -> Fixed:
    """Return 2 L points whose equal-weight mean is the exact expectation of any quadratic of standard normal noise."""
    points = math.sqrt(num_dims) * torch.eye(num_dims, dtype=torch.float64)
    return Fixed(torch.cat([points, -points])[:, None, :])


def observations() -> Tensor:
    return torch.from_numpy(X)


def linear_gaussian(covariance: str = "diagonal", *, posterior: str = "off") -> LinearGaussian:
    """Return the model in float64; its encoder is `best` in its family, or a little `off` that."""
    info = DataInfo((D,), torch.zeros(D, dtype=torch.float64), 100, "continuous")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LinearGaussian(info, latent_dim=L, covariance=covariance).double()
        model.set_parameters(torch.from_numpy(W), torch.from_numpy(MU), SIGMA)
        model.set_best_posterior()
        if posterior == "off":
            with torch.no_grad():
                model.encoder.bias += torch.tensor([0.1, -0.15, 0.05], dtype=torch.float64)
                model.raw_scale += 0.1 * torch.randn_like(model.raw_scale)
    return model


def exact_log_p_x(x: np.ndarray = X) -> np.ndarray:
    """Return log p(x) by SciPy, in nats."""
    return scipy.stats.multivariate_normal(MU, W @ W.T + SIGMA**2 * np.eye(D)).logpdf(x)


def exact_posterior(x: np.ndarray = X) -> tuple[np.ndarray, np.ndarray]:
    """Return mean `[B, L]` and covariance `[L, L]` of p(z|x), by conditioning the joint normal of (z, x)."""
    marginal = W @ W.T + SIGMA**2 * np.eye(D)
    gain = np.linalg.solve(marginal, W).T
    return (x - MU) @ gain.T, np.eye(L) - gain @ W


class Replicas:
    """The linear Gaussian model with parameters of its own for each row: one backward pass, R gradients.

    The encoder is free, a mean and a log-scale for each row; the values are those of `linear_gaussian` bar an encoder
    that is off the posterior.
    """

    def __init__(self, num_replicas: int) -> None:
        def copies(values: np.ndarray) -> Tensor:
            each = torch.from_numpy(np.asarray(values, dtype=np.float64))
            return each.expand(num_replicas, *each.shape).clone().requires_grad_()

        loc, covariance = exact_posterior(X[:1])
        self.weight, self.mean, self.log_sigma = copies(W), copies(MU), copies(np.log(SIGMA))
        self.loc = copies(loc[0] + [0.2, -0.3, 0.1])
        self.log_scale = copies(0.5 * np.log(covariance.diagonal()) + [0.1, -0.2, 0.05])
        self.x = torch.from_numpy(X[:1]).expand(num_replicas, D)

    def parameters(self) -> dict[str, Tensor]:
        return {
            "weight": self.weight,
            "mean": self.mean,
            "log_sigma": self.log_sigma,
            "loc": self.loc,
            "log_scale": self.log_scale,
        }

    def posterior(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.log_scale.exp())

    def prior(self) -> DiagonalNormal:
        return DiagonalNormal(torch.zeros(L, dtype=torch.float64), torch.ones(L, dtype=torch.float64))

    def likelihood(self, z: Tensor) -> Independent:
        loc = torch.einsum("rdl,krl->krd", self.weight, z) + self.mean
        return Independent(Normal(loc, self.log_sigma.exp()[:, None], validate_args=False), 1, validate_args=False)

    def exact_elbo(self) -> Tensor:
        """Return E_q log p(x|z) - KL(q ‖ p) in closed form, `[R]`, with its gradient."""
        variance, sigma2 = (2 * self.log_scale).exp(), (2 * self.log_sigma).exp()
        residual = self.x - self.mean - torch.einsum("rdl,rl->rd", self.weight, self.loc)
        spread = torch.einsum("rdl,rl,rdl->r", self.weight, variance, self.weight)
        distortion = 0.5 * (D * torch.log(2 * math.pi * sigma2) + (residual.square().sum(-1) + spread) / sigma2)
        rate = 0.5 * (variance + self.loc.square() - 1 - 2 * self.log_scale).sum(-1)
        return -distortion - rate

    def gradients(self, values: Tensor) -> dict[str, Tensor]:
        """Return the gradient of each row's value in that row's parameters, `[R, ...]`."""
        parameters = self.parameters()
        found = torch.autograd.grad(values.sum(), list(parameters.values()))
        return dict(zip(parameters, found, strict=True))


def _z_test(samples, expected, false_fail: float) -> tuple[np.ndarray, np.ndarray, float]:
    samples = np.asarray(samples.detach() if isinstance(samples, Tensor) else samples, dtype=np.float64)
    expected = np.asarray(expected.detach() if isinstance(expected, Tensor) else expected)
    error = samples.mean(0) - expected
    standard_error = samples.std(0, ddof=1) / math.sqrt(len(samples)) + 1e-13
    return error, standard_error, float(scipy.stats.norm.isf(false_fail / 2 / error.size))


def assert_mean(samples, expected, *, detects: float, false_fail: float = 1e-8) -> None:
    """Assert that the mean over the first axis is `expected`, coordinate by coordinate.

    Over seeds it fails a correct program with probability `false_fail` (Bonferroni over the coordinates); an error of
    `detects` in any coordinate is found with probability 0.999, which is asserted too.
    """
    error, standard_error, threshold = _z_test(samples, expected, false_fail)
    smallest = ((threshold + 3.1) * standard_error).max()
    assert smallest <= detects, f"the test sees errors of {smallest:.2g} at best"
    assert (np.abs(error) <= threshold * standard_error).all(), (
        f"errors in units of their standard error: {error / standard_error}"
    )


def assert_mean_at_most(samples, limit, *, false_fail: float = 1e-8) -> None:
    """Assert that the mean over the first axis does not lie above `limit`."""
    error, standard_error, threshold = _z_test(samples, limit, false_fail)
    assert (error <= threshold * standard_error).all(), f"above by {error} +- {standard_error}"
