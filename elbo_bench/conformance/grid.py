"""Numerical integration over one or two latent dimensions, on a wide and fine grid."""

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

_CHUNK = 4096


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid that reaches twelve standard deviations of some samples to either side of their mean.

    Attributes:
        samples: Samples of the latent, `[S, *latent]`. The latent has at most two dimensions.
        size: Points along each dimension, an odd number.
    """

    samples: Tensor
    size: int

    @functools.cached_property
    def points(self) -> Tensor:
        """All points, `[G, *latent]`."""
        flat = self.samples.flatten(1)
        unit = torch.linspace(-1, 1, self.size, dtype=torch.float64)
        axes = [mean + 12 * scale * unit for mean, scale in zip(flat.mean(0), flat.std(0), strict=True)]
        return torch.cartesian_prod(*axes).reshape(-1, *self.samples.shape[1:])

    @functools.cached_property
    def log_cell(self) -> float:
        """Logarithm of the volume of one cell."""
        return float((24 * self.samples.flatten(1).std(0) / (self.size - 1)).log().sum())

    def log_values(self, log_density: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logarithm of density times cell volume at each point, `[G, *rest]`. They sum to the integral."""
        with torch.no_grad():
            pieces = [log_density(some) for some in self.points.split(_CHUNK)]
        return torch.cat(pieces) + self.log_cell

    def coarse(self, log_values: Tensor) -> Tensor:
        """Return the values of the grid that keeps every second point of each dimension."""
        num_dims = self.samples[0].numel()
        grid: Tensor = log_values.unflatten(0, (self.size,) * num_dims)
        kept = grid[(slice(None, None, 2),) * num_dims].flatten(0, num_dims - 1)
        return kept + num_dims * math.log(2)
