"""A linear Gaussian model (probabilistic PCA) with a linear encoder. Its log p(x) and posterior are known exactly."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import LOG_2_PI, DiagonalNormal, FullNormal, standard_normal


class LinearGaussian(nn.Module):
    r"""Creates a linear Gaussian model with a linear encoder.

    .. math:: z \sim N(0, I), \quad x|z \sim N(W z + \mu, \sigma^2 I)

    The marginal is N(mu, C) with C = W W' + sigma^2 I. The posterior is N(M^-1 W'(x - mu), sigma^2 M^-1) with
    M = W'W + sigma^2 I (Tipping & Bishop, 1999, "Probabilistic principal component analysis", eqs. 4-7).

    Args:
        info: Facts of the data, which must be continuous.
        latent_dim: Number of dimensions of z.
        covariance: Covariance of q(z|x). It is the same for every x.
        noise_std: Initial standard deviation sigma of the likelihood.
        learn_noise: Whether sigma is learned.

    Raises:
        ValueError: The data are discrete. A density is not comparable with a probability.
    """

    def __init__(  # noqa: PLR0917 - its parameters are its configuration
        self,
        info: DataInfo,
        latent_dim: PositiveInt = 4,
        covariance: Literal["diagonal", "full"] = "diagonal",
        noise_std: PositiveFloat = 1.0,
        learn_noise: bool = True,
    ) -> None:
        super().__init__()
        if info.observation != "continuous":
            raise ValueError("a Gaussian likelihood needs continuous data, and this data is discrete")
        num_dims = info.num_dims
        self.latent_dim, self.covariance, self.shape = latent_dim, covariance, info.shape
        self.weight = nn.Parameter(torch.randn(num_dims, latent_dim) / math.sqrt(latent_dim))
        self.mean = nn.Parameter(info.train_mean.flatten().clone())
        self.log_noise_std = nn.Parameter(torch.tensor(math.log(noise_std)), requires_grad=learn_noise)
        self.encoder = nn.Linear(num_dims, latent_dim)
        nn.init.xavier_uniform_(self.encoder.weight)
        nn.init.zeros_(self.encoder.bias)
        # The Cholesky factor of the covariance of q(z|x). Its diagonal is stored as logarithms.
        self.raw_scale = nn.Parameter(torch.zeros((latent_dim,) * (2 if covariance == "full" else 1)))

    @property
    def noise_std(self) -> Float[Tensor, ""]:
        """Standard deviation of the likelihood."""
        return self.log_noise_std.exp()

    def posterior(self, x: Float[Tensor, "B *data"]) -> DiagonalNormal | FullNormal:
        """Return q(z|x)."""
        loc = self.encoder(x.flatten(1))
        if self.covariance == "full":
            scale_tril = self.raw_scale.tril(-1) + self.raw_scale.diagonal().exp().diag()
            return FullNormal(loc, scale_tril)
        return DiagonalNormal(loc, self.raw_scale.exp().expand_as(loc))

    def prior(self) -> DiagonalNormal:
        """Return p(z) = N(0, I)."""
        return standard_normal(self.latent_dim, like=self.weight)

    def likelihood(self, z: Float[Tensor, "*lead L"]) -> Independent:  # type: ignore[type-arg]
        """Return p(x|z)."""
        loc = (z @ self.weight.mT + self.mean).unflatten(-1, self.shape)
        return Independent(Normal(loc, self.noise_std, validate_args=False), len(self.shape), validate_args=False)

    def log_p_x(self, x: Float[Tensor, "B *data"]) -> Float[Tensor, " B"]:
        """Return the exact log p(x) in nats, in float64."""
        weight, centred = self.weight.double(), x.flatten(1).double() - self.mean.double()
        variance = self.noise_std.double().square()
        covariance = weight @ weight.mT + variance * torch.eye(len(weight), dtype=torch.float64, device=weight.device)
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, centred.mT, upper=False)
        log_det = 2 * factor.diagonal().log().sum()
        log_p_x: Tensor = -0.5 * (len(weight) * LOG_2_PI + log_det + whitened.square().sum(0))
        return log_p_x

    def exact_posterior(self, x: Float[Tensor, "B *data"]) -> FullNormal:
        """Return p(z|x)."""
        gain, covariance = self._posterior_terms()
        return FullNormal((x.flatten(1) - self.mean) @ gain.mT, torch.linalg.cholesky(covariance))

    @torch.no_grad()
    def set_parameters(self, weight: Tensor, mean: Tensor, noise_std: float) -> None:
        """Set the parameters of p(x, z)."""
        self.weight.copy_(weight)
        self.mean.copy_(mean)
        self.log_noise_std.fill_(math.log(noise_std))

    @torch.no_grad()
    def set_best_posterior(self) -> None:
        """Set q(z|x) to the posterior (full), or to the diagonal normal with the smallest KL(q ‖ posterior).

        The diagonal normal has the posterior's mean. Its variances are sigma^2 / M_ii.
        """
        gain, covariance = self._posterior_terms()
        self.encoder.weight.copy_(gain)
        self.encoder.bias.copy_(-gain @ self.mean)
        if self.covariance == "full":
            factor = torch.linalg.cholesky(covariance)
            self.raw_scale.copy_(factor.tril(-1) + factor.diagonal().log().diag())
        else:
            precision = torch.linalg.inv(covariance)
            self.raw_scale.copy_(-0.5 * precision.diagonal().log())

    def _posterior_terms(self) -> tuple[Tensor, Tensor]:
        """Return the posterior's gain M^-1 W' and its covariance sigma^2 M^-1."""
        variance = self.noise_std.square()
        identity = torch.eye(self.latent_dim, dtype=self.weight.dtype, device=self.weight.device)
        m_inverse = torch.linalg.inv(self.weight.mT @ self.weight + variance * identity)
        return m_inverse @ self.weight.mT, variance * m_inverse
