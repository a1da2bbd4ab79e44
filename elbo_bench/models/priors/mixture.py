"""Gaussian mixture prior."""

import dataclasses
import math

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.models.mixtures import MixtureDistribution
from elbo_bench.models.priors.base import Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixturePrior(Prior):
    r"""Learned mixture of C normal distributions with independent dimensions.

    .. math:: p(z) = \sum_{c=1}^C \pi_c\, N(z; \mu_c, \mathrm{diag}\,\sigma_c^2)

    At initialisation the prior is within about half a nat of N(0, I), for any number of dimensions D: the means are
    drawn with variance 1/(D + 1), and each component has the remaining variance.

    Attributes:
        num_components: Number of components, C.
    """

    num_components: PositiveInt = 50

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _MixtureModule(self.num_components, latent_dim)


class _MixtureModule(nn.Module):
    def __init__(self, num_components: int, latent_dim: int) -> None:
        super().__init__()
        spread = 1 / (latent_dim + 1)
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim) * math.sqrt(spread))
        self.log_scale = nn.Parameter(torch.full((num_components, latent_dim), 0.5 * math.log1p(-spread)))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def forward(self, encoder: object) -> MixtureDistribution:  # noqa: ARG002
        scale = self.log_scale.exp()

        def pick(index: Tensor) -> DiagonalNormal:
            return DiagonalNormal(self.loc[index], scale[index])

        return MixtureDistribution(DiagonalNormal(self.loc, scale), self.logits, pick)
