"""Masked autoregressive flows as posteriors."""

import dataclasses
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.flow_head import FlowHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class MAF(Posterior):
    r"""Masked autoregressive flow around a diagonal normal.

    .. math:: \epsilon_j = (u_j - m_j(u_{<j}, x)) / s_j(u_{<j}, x), \quad z = \mu(x) + \sigma(x) \odot u

    and so on for each transformation (Papamakarios et al., 2017, "Masked autoregressive flow for density estimation").
    The density is the fast direction, one pass through each network; a sample takes `passes`.

    It begins near the diagonal posterior.

    Attributes:
        num_transforms: Transformations, one after the other, the order of the dimensions reversed in between.
        hidden: Widths of the hidden layers of each transformation's network.
        passes: Groups of dimensions, each of which depends on those before it; 2 is a coupling flow, None one group a
            dimension.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 2
    hidden: tuple[PositiveInt, ...] = (64, 64)
    passes: Annotated[int, Field(ge=2)] | None = None

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the head."""
        return FlowHead(
            num_features,
            latent_dim,
            inverse=False,
            num_transforms=self.num_transforms,
            hidden=self.hidden,
            passes=self.passes,
        )
