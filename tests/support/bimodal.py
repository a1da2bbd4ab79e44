"""A model whose posterior has two modes."""

import math

import numpy as np
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbo_bench.distributions import DiagonalNormal, standard_normal


class Bimodal:
    """x_1 sees only the square of z_1 and x_2 sees z_2: two modes, mirrored, wherever x_1 is large."""

    sigma = 0.5

    def __init__(self, loc: float = 2.0, scale: float = 0.3, num_dims: int = 2) -> None:
        self.loc, self.scale, self.num_dims = loc, scale, num_dims

    def posterior(self, x: Tensor) -> DiagonalNormal:
        loc = torch.zeros(len(x), self.num_dims, dtype=x.dtype)
        loc[:, 0] = self.loc
        return DiagonalNormal(loc, torch.full_like(loc, self.scale))

    def prior(self) -> DiagonalNormal:
        return standard_normal(self.num_dims, like=torch.zeros(1, dtype=torch.float64))

    def likelihood(self, z: Tensor) -> Distribution:
        return Independent(Normal(torch.cat([z[..., :1].square(), z[..., 1:]], -1), self.sigma), 1)

    def log_p_x(self, x: Tensor) -> np.ndarray:
        """Return log p(x) by the trapezoid rule on the first coordinate, in closed form on the others."""
        grid = np.linspace(-8, 8, 20_001)
        first = scipy.stats.norm(grid**2, self.sigma).pdf(x[:, :1].numpy()) * scipy.stats.norm.pdf(grid)
        rest = scipy.stats.norm(0, math.sqrt(1 + self.sigma**2)).logpdf(x[:, 1:].numpy())
        return np.log(np.trapezoid(first, grid, axis=1)) + rest.sum(1)

    def moments(self, x: float) -> tuple[float, float]:
        """Return mean and standard deviation of z_1 in the positive half."""
        grid = np.linspace(0, 8, 20_001)
        density = scipy.stats.norm(grid**2, self.sigma).pdf(x) * scipy.stats.norm.pdf(grid)
        density /= np.trapezoid(density, grid)
        mean = float(np.trapezoid(grid * density, grid))
        return mean, math.sqrt(np.trapezoid((grid - mean) ** 2 * density, grid))
