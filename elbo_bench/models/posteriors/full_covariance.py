"""Normal posterior with a full covariance."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbo_bench.distributions import FullNormal
from elbo_bench.models.networks.mlp_layers import linear
from elbo_bench.models.posteriors.base import Posterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullCovariance(Posterior):
    r"""Normal posterior with a full covariance. The diagonal of its Cholesky factor L is exp(linear).

    .. math:: q(z|x) = N(z; \mu(x), L(x) L(x)')

    At initialisation L is diagonal, as in the diagonal posterior. The head has D(D + 3)/2 outputs.
    """

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the head."""
        return _FullCovarianceHead(num_features, latent_dim)


class _FullCovarianceHead(nn.Module):
    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.loc = linear(num_features, latent_dim)
        self.log_scale = linear(num_features, latent_dim)
        self.below = linear(num_features, latent_dim * (latent_dim - 1) // 2) if latent_dim > 1 else None
        if self.below is not None:
            nn.init.zeros_(self.below.weight)

    def forward(self, features: Float[Tensor, "B F"]) -> FullNormal:
        factor = torch.diag_embed(self.log_scale(features).exp())
        if self.below is not None:
            row, column = torch.tril_indices(self.latent_dim, self.latent_dim, -1, device=features.device)
            factor = factor.index_put(
                (torch.arange(len(features), device=features.device)[:, None], row, column), self.below(features)
            )
        return FullNormal(self.loc(features), factor)
