"""The normal distribution with a full covariance, and its KL divergence from a diagonal normal distribution."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, register_kl

from elbo_bench.distributions.normal_kl import kl_from_moments


class FullNormal(MultivariateNormal):
    """Creates a normal distribution with a full covariance, given its Cholesky factor.

    Args:
        loc: Mean, `[*batch, D]`.
        scale_tril: Lower triangular factor with a positive diagonal, `[*batch, D, D]`.
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], scale_tril: Float[Tensor, "*batch2 D D"]) -> None:
        super().__init__(loc, scale_tril=scale_tril, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "FullNormal":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        event = self.event_shape
        return FullNormal(self.loc.expand(*batch_shape, *event), self.scale_tril.expand(*batch_shape, *event, *event))

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return `loc + scale_tril @ noise`."""
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:  # type: ignore[type-arg]
    """Return KL(q ‖ p) in nats, for q with a full covariance and p with independent dimensions."""
    log_det = 2 * q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return kl_from_moments(q.loc, q.scale_tril.square().sum(-1), log_det, p)
