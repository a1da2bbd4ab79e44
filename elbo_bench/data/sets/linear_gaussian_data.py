"""Data drawn from a linear Gaussian model with known parameters: log p(x) has a closed form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from elbo_bench.data.drawn_source import DrawnSource
from elbo_bench.noise import Noise


@dataclass(frozen=True)
class LinearGaussianParameters:
    """The true parameters: x is normal with mean `mean` and covariance `weight @ weight.T + noise_std**2 * I`.

    Attributes:
        weight: Loadings W, `[D, L]`.
        mean: Mean of x, `[D]`.
        noise_std: Standard deviation of the noise in every dimension.
    """

    weight: Float64[Tensor, "D L"]
    mean: Float64[Tensor, " D"]
    noise_std: float


@dataclass(frozen=True, kw_only=True)
class LinearGaussianData(DrawnSource):
    r"""Draws from probabilistic principal component analysis with known parameters.

    .. math:: x = W z + \mu + \sigma \epsilon, \qquad z \sim N(0, I_L), \quad \epsilon \sim N(0, I_D)

    The entries of W are drawn from N(0, 1/L), so that the signal of a dimension has variance 1 on average. The entries
    of the mean are drawn from N(0, 1). `data_seed` also determines these parameters.

    Reference: Tipping, Bishop, 1999, "Probabilistic principal component analysis", eq. 2.

    Attributes:
        num_dims: Dimensions of x, D.
        latent_dim: Dimensions of z, L.
        noise_std: Standard deviation of the noise, sigma.
    """

    num_dims: PositiveInt = 16
    latent_dim: PositiveInt = 4
    noise_std: PositiveFloat = 0.5

    name = "linear_gaussian_data"
    citation = "Tipping, Bishop, Probabilistic principal component analysis, J. R. Stat. Soc. B 61(3), 1999"
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "4c83030756fe6d1ac57446f464d38d1ee23196858fb7a408c67b4eb67aade7aa",
    }

    observation = "continuous"

    @property
    def distribution(self) -> str:
        """The distribution and the value of each field that determines it, in words."""
        return (
            f"x = W z + mean + noise: num_dims={self.num_dims}, latent_dim={self.latent_dim}, "
            f"noise_std={float(self.noise_std)!r}"
        )

    def parameters(self) -> LinearGaussianParameters:
        """Return the true parameters."""
        weight = self._normal("weight", (self.num_dims, self.latent_dim)) / math.sqrt(self.latent_dim)
        return LinearGaussianParameters(
            weight=weight, mean=self._normal("mean", (self.num_dims,)), noise_std=float(self.noise_std)
        )

    def log_p_x(self, x: Float[Tensor, "N D"]) -> Float64[Tensor, " N"]:
        r"""Return the log-density of x: normal with the covariance :math:`W W^T + \sigma^2 I`, in nats."""
        truth = self.parameters()
        covariance = truth.weight @ truth.weight.T
        covariance.diagonal().add_(truth.noise_std**2)
        log_p: Tensor = torch.distributions.MultivariateNormal(truth.mean, covariance).log_prob(x.double())
        return log_p

    def draw(self, split: str, num_examples: int) -> Float32[Tensor, "N D"]:
        """Return the examples of a split."""
        truth = self.parameters()
        z = self._normal(split, (num_examples, self.latent_dim), position=0)
        x = truth.mean + truth.noise_std * self._normal(split, (num_examples, self.num_dims), position=1)
        # Not a matrix product: its order of summation depends on the machine, and so would the hash of the test set.
        for k in range(self.latent_dim):
            x += z[:, k : k + 1] * truth.weight[:, k]
        return x.float()

    def _normal(self, what: str, shape: tuple[int, ...], position: int = 0) -> Float64[Tensor, "..."]:
        noise = Noise(seed=self.data_seed, purpose=f"linear_gaussian_data/{what}", position=position)
        return noise.normal(shape, dtype=torch.float64)
