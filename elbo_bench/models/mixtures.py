"""A mixture of any distributions, with a density that needs little memory."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, real_vector

from elbo_bench.distributions import LOG_2_PI, DiagonalNormal

_AT_ONCE = 2**22
"""Largest number of elements of an array in the computation of a density."""
_PICKED_AT_ONCE = 1024
"""Largest number of components that are computed together for samples."""


class MixtureDistribution(Distribution):
    r"""Creates a mixture of C distributions of vectors.

    .. math:: p(z) = \sum_{c=1}^C \pi_c\, p_c(z)

    Args:
        components: All components: batch `[C]`, event `[D]`.
        logits: Logarithms of the weights, up to a constant.
        pick: Returns the components with given indices `[n]`, as a batch `[n]`. Samples are drawn from them.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class

    def __init__(
        self,
        components: Distribution,
        logits: Float[Tensor, " C"],
        pick: Callable[[Int[Tensor, " n"]], Distribution],
    ) -> None:
        self.components, self.log_weights, self._pick = components, torch.log_softmax(logits, 0), pick
        super().__init__(torch.Size(), components.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        """All vectors."""
        return real_vector

    @property
    def mean(self) -> Tensor:
        """The mean, `[D]`."""
        return self.log_weights.exp() @ self.components.mean

    @property
    def variance(self) -> Tensor:
        """The variance of each dimension, `[D]`."""
        spread = self.components.variance + (self.components.mean - self.mean).square()
        return self.log_weights.exp() @ spread

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample"]:
        """Return log p(value) in nats."""
        rows = value.reshape(-1, *self.event_shape)
        normal = isinstance(self.components, DiagonalNormal)
        numbers = len(self.log_weights) * (1 if normal else rows.shape[-1])
        pieces = [
            torch.logsumexp(self._log_densities(part) + self.log_weights, -1)
            for part in rows.split(max(1, _AT_ONCE // numbers))
        ]
        return torch.cat(pieces).to(value.dtype).reshape(value.shape[:-1])

    def _log_densities(self, z: Float[Tensor, "n D"]) -> Float[Tensor, "n C"]:
        """Return the log-density of each value under each component."""
        if not isinstance(self.components, DiagonalNormal):
            return self.components.log_prob(z[:, None].expand(-1, len(self.log_weights), -1))
        # Expand the square: two matrix products instead of an n x C x D array. The differences lose digits where z is
        # many scales away from a component. In float64 enough digits remain.
        normal = self.components.base_dist
        loc, scale, z = normal.loc.double(), normal.scale.double(), z.double()
        precision = scale.pow(-2)
        constant = (loc.square() * precision).sum(-1) + 2 * scale.log().sum(-1) + LOG_2_PI * loc.shape[-1]
        distances = torch.addmm(constant, z.square(), precision.mT)
        return -0.5 * torch.addmm(distances, z, (loc * precision).mT, alpha=-2)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return samples from torch's global generator."""
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            chosen = torch.multinomial(self.log_weights.exp(), shape.numel(), replacement=True)
            pieces = [self._pick(part).sample() for part in chosen.split(_PICKED_AT_ONCE)]
            return torch.cat(pieces).reshape(shape + self.event_shape)
