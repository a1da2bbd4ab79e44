"""The aggregated posterior q(z) of a set of examples, an equal mixture of their posteriors."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from elbo_bench.distributions import LOG_2_PI

COMPONENTS = 512
"""Components whose densities are formed at once, where they are products of matrices."""


@dataclasses.dataclass(frozen=True)
class AggregatedPosterior:
    r"""The mixture of N posteriors, in nats and float64.

    .. math:: q(z) = \frac1N \sum_{n=1}^N q(z|x_n)

    All N components are summed, none is sampled (Hoffman & Johnson, 2016, "ELBO surgery").

    Attributes:
        posteriors: q(z|x) of every example, in batches.
    """

    posteriors: tuple[Distribution, ...]

    @property
    def num_components(self) -> int:
        """N."""
        return sum(int(each.batch_shape[0]) for each in self.posteriors)

    def log_prob(self, z: Shaped[Tensor, "M *event"]) -> Float[Tensor, " M"]:
        """Return log q(z)."""
        total = torch.full((len(z),), -math.inf, dtype=torch.float64, device=z.device)
        for posterior in self._pieces():
            total = torch.logaddexp(total, torch.logsumexp(_log_densities(posterior, z), 1))
        return total - math.log(self.num_components)

    def _pieces(self) -> Sequence[Distribution]:
        """Return the batches, those of independent normals joined into larger ones."""
        normals = [each.base_dist for each in self.posteriors if _is_diagonal(each)]  # type: ignore[attr-defined]
        if len(normals) < len(self.posteriors):
            return self.posteriors
        loc, scale = torch.cat([each.loc for each in normals]), torch.cat([each.scale for each in normals])
        pieces = zip(loc.split(COMPONENTS), scale.split(COMPONENTS), strict=True)
        return [Independent(Normal(*piece, validate_args=False), 1, validate_args=False) for piece in pieces]


def _is_diagonal(posterior: Distribution) -> bool:
    return (
        isinstance(posterior, Independent)
        and isinstance(posterior.base_dist, Normal)
        and posterior.reinterpreted_batch_ndims == 1
        and len(posterior.batch_shape) == 1
    )


def _log_densities(posterior: Distribution, z: Float[Tensor, "M *event"]) -> Float[Tensor, "M C"]:
    """Return the log-density of each latent under each component of a batch."""
    if not _is_diagonal(posterior):
        return posterior.log_prob(z.unsqueeze(1)).double()
    # The square is multiplied out: two products of matrices instead of an array of M x C x D numbers.
    # That costs digits, a relative 1e-16 of the largest distance over scale, squared: centred, it is small.
    normal: Normal = posterior.base_dist  # type: ignore[attr-defined]
    loc, precision, z = normal.loc.double(), normal.scale.double().pow(-2), z.double()
    centre = loc.mean(0)
    loc, z = loc - centre, z - centre
    constant = (loc.square() * precision - precision.log()).sum(-1) + loc.shape[-1] * LOG_2_PI
    distances = torch.addmm(constant, z.square(), precision.mT)
    return -0.5 * torch.addmm(distances, z, (loc * precision).mT, alpha=-2)
