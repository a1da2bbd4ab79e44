"""The maximum-likelihood fit of probabilistic PCA, in closed form: what a linear VAE can reach, and no more."""

import dataclasses
import math

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class MaximumLikelihood:
    """The best linear Gaussian model of some data.

    Attributes:
        log_px: Its mean log p(x) of these data, in nats.
        noise_variance: Its sigma^2.
        active_units: Latent dimensions that say something about x: eigenvalues of the covariance above sigma^2.
    """

    log_px: float
    noise_variance: float
    active_units: int


def maximum_likelihood(
    x: Shaped[Tensor, "N *data"], latent_dim: int, noise_std: float | None = None
) -> MaximumLikelihood:
    r"""Return the maximum over W, mu and, if it is not given, sigma of the mean log N(x; mu, W W' + sigma^2 I).

    With :math:`\lambda_1 \ge \lambda_2 \ge \dots` the eigenvalues of the data's covariance (divided by N), the maximum
    has W W' + sigma^2 I with eigenvalues :math:`\max(\lambda_i, \sigma^2)` for i up to the number of latent dimensions
    and sigma^2 beyond, where :math:`\sigma^2` is the mean of the discarded ones if it is free (Tipping & Bishop, 1999,
    "Probabilistic principal component analysis", eqs. 7-8 and appendix A; Lucas et al., 2019, "Don't blame the ELBO!").
    There the columns of W are orthogonal, the posterior has a diagonal covariance, and the ELBO equals log p(x).

    Args:
        x: The data.
        latent_dim: Dimensions of z.
        noise_std: Sigma where it is fixed.

    Raises:
        ValueError: There is nothing left for the noise: as many latent dimensions as data dimensions or examples.
    """
    flat = x.flatten(1).double()
    size, dims = flat.shape
    if latent_dim < 1 or (noise_std is None and latent_dim >= min(dims, size - 1)):
        raise ValueError(f"{latent_dim} latent dimensions for {size} examples of {dims} dimensions: no noise is left")
    centred = flat - flat.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.mT @ centred / size).flip(0).clamp(min=0.0)
    kept = min(latent_dim, dims)
    variance = float(eigenvalues[kept:].mean()) if noise_std is None else noise_std**2
    spectrum = torch.cat([eigenvalues[:kept].clamp(min=variance), eigenvalues.new_full((dims - kept,), variance)])
    log_px = -0.5 * (dims * math.log(2 * math.pi) + spectrum.log().sum() + (eigenvalues / spectrum).sum())
    return MaximumLikelihood(float(log_px), variance, int((eigenvalues[:kept] > variance).sum()))
