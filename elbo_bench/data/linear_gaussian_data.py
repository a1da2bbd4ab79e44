"""Data drawn from a linear Gaussian model with known parameters: here log p(x) has a closed form."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float32, Float64
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from elbo_bench.data.dataset import Dataset, DataSource
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
class LinearGaussianData(DataSource):
    r"""Draws from probabilistic principal component analysis with known parameters.

    .. math:: x = W z + \mu + \sigma \epsilon, \qquad z \sim N(0, I_L), \quad \epsilon \sim N(0, I_D)

    The entries of W are N(0, 1/L), so that the signal of a dimension has variance 1 on average; those of the mean
    are N(0, 1). More examples of a split leave the first ones as they are.

    Reference: Tipping, Bishop, 1999, "Probabilistic principal component analysis", eq. 2.

    Attributes:
        num_dims: Dimensions of x, D.
        latent_dim: Dimensions of z, L.
        noise_std: Standard deviation of the noise, sigma.
        num_train: Training examples.
        num_validation: Validation examples.
        num_test: Test examples.
        data_seed: Seed of the parameters and of the examples; the run's seed has no part in them.
    """

    num_dims: PositiveInt = 16
    latent_dim: PositiveInt = 4
    noise_std: PositiveFloat = 0.5
    num_train: PositiveInt = 2000
    num_validation: PositiveInt = 500
    num_test: PositiveInt = 500
    data_seed: NonNegativeInt = 0

    licence: ClassVar[str] = "none needed: the data are drawn, not collected"
    citation: ClassVar[str] = (
        "Tipping, Bishop, Probabilistic principal component analysis, J. R. Stat. Soc. B 61(3), 1999"
    )
    test_sha256: ClassVar[Mapping[str, str]] = {
        "drawn": "4c83030756fe6d1ac57446f464d38d1ee23196858fb7a408c67b4eb67aade7aa",
    }

    @property
    def observation(self) -> Literal["discrete", "continuous"]:
        """Whether an observation has a probability mass or a density."""
        return "continuous"

    @property
    def protocol(self) -> str:
        """One line that says what the splits are and how they were drawn: every field that determines the data."""
        return (
            f"{self.num_train}/{self.num_validation}/{self.num_test} drawn from x = W z + mean + noise: "
            f"num_dims={self.num_dims}, latent_dim={self.latent_dim}, noise_std={float(self.noise_std)!r}, "
            f"data_seed={self.data_seed}"
        )

    def parameters(self) -> LinearGaussianParameters:
        """Return the parameters that the data are drawn from: the truth."""
        weight = self._normal("weight", (self.num_dims, self.latent_dim)) / math.sqrt(self.latent_dim)
        return LinearGaussianParameters(
            weight=weight, mean=self._normal("mean", (self.num_dims,)), noise_std=float(self.noise_std)
        )

    def load(self, root: Path) -> Dataset:  # noqa: ARG002 - drawn, not read
        """Draw the three splits."""
        return Dataset(
            name="linear_gaussian_data",
            protocol=self.protocol,
            values="drawn",
            num_levels=None,
            train=self._draw("train", self.num_train),
            validation=self._draw("validation", self.num_validation),
            test=self._draw("test", self.num_test),
            truth=self._log_density,
        )

    def _log_density(self, x: Float[Tensor, "N D"]) -> Float64[Tensor, " N"]:
        r"""Return the log-density of x: normal with the covariance :math:`W W^T + \sigma^2 I`, in nats."""
        truth = self.parameters()
        covariance = truth.weight @ truth.weight.T
        covariance.diagonal().add_(truth.noise_std**2)
        log_p: Tensor = torch.distributions.MultivariateNormal(truth.mean, covariance).log_prob(x.double())
        return log_p

    def _draw(self, split: str, num_examples: int) -> Float32[Tensor, "N D"]:
        truth = self.parameters()
        z = self._normal(split, (num_examples, self.latent_dim), position=0)
        x = truth.mean + truth.noise_std * self._normal(split, (num_examples, self.num_dims), position=1)
        # No matrix product: its order of summation, and with it the test set's hash, depends on the machine.
        for k in range(self.latent_dim):
            x += z[:, k : k + 1] * truth.weight[:, k]
        return x.float()

    def _normal(self, what: str, shape: tuple[int, ...], position: int = 0) -> Float64[Tensor, "..."]:
        noise = Noise(seed=self.data_seed, purpose=f"linear_gaussian_data/{what}", position=position)
        return noise.normal(shape, dtype=torch.float64)
