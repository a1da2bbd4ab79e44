"""Diagonal normal posterior."""

import dataclasses

from jaxtyping import Float
from torch import Tensor, nn

from elbo_bench.distributions import DiagonalNormal
from elbo_bench.models.networks.mlp_layers import linear
from elbo_bench.models.posteriors.base import Posterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagonal(Posterior):
    r"""Normal posterior with independent dimensions. The scale is exp(linear), without a clamp.

    .. math:: q(z|x) = N(z; \mu(x), \mathrm{diag}\,\sigma^2(x))

    Source: Kingma & Welling, 2014, "Auto-encoding variational Bayes".
    """

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the head."""
        return _DiagonalHead(num_features, latent_dim)


class _DiagonalHead(nn.Module):
    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = linear(num_features, latent_dim)
        self.log_scale = linear(num_features, latent_dim)

    def forward(self, features: Float[Tensor, "B F"]) -> DiagonalNormal:
        return DiagonalNormal(self.loc(features), self.log_scale(features).exp())
