"""Normal posterior with a diagonal plus low-rank covariance."""

import dataclasses

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from elbo_bench.distributions import LowRankNormal
from elbo_bench.models.networks.mlp_layers import linear
from elbo_bench.models.posteriors.base import Posterior

_START = 0.1
"""Factor on the initial Glorot weights of F. With weights of zero, F would have a gradient of zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRank(Posterior):
    r"""Normal posterior with a diagonal plus low-rank covariance.

    .. math:: q(z|x) = N(z; \mu(x), \mathrm{diag}\,\sigma^2(x) + F(x) F(x)')

    Attributes:
        rank: Number of columns of F. It is reduced to the number of dimensions of z if it is larger.
    """

    rank: PositiveInt = 4

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the head."""
        return _LowRankHead(num_features, latent_dim, min(self.rank, latent_dim))


class _LowRankHead(nn.Module):
    def __init__(self, num_features: int, latent_dim: int, rank: int) -> None:
        super().__init__()
        self.shape = (latent_dim, rank)
        self.loc = linear(num_features, latent_dim)
        self.log_scale = linear(num_features, latent_dim)
        self.factor = linear(num_features, latent_dim * rank)
        with torch.no_grad():
            self.factor.weight.mul_(_START)

    def forward(self, features: Float[Tensor, "B F"]) -> LowRankNormal:
        factor = self.factor(features).unflatten(-1, self.shape)
        return LowRankNormal(self.loc(features), factor, self.log_scale(features).exp())
