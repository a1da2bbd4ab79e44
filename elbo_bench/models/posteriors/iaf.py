"""Inverse autoregressive flows as posteriors."""

import dataclasses
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.flow_head import FlowHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class IAF(Posterior):
    r"""Inverse autoregressive flow around a diagonal normal.

    .. math:: u_j = m_j(\epsilon_{<j}, x) + s_j(\epsilon_{<j}, x)\, \epsilon_j, \quad
        z = \mu(x) + \sigma(x) \odot u

    and so on for each transformation (Kingma et al., 2016, "Improving variational inference with inverse
    autoregressive flow"). A sample is the fast direction, one pass through each network; the density of a given z
    takes `passes`, and here also that of a sample: every z is scored as if it came from elsewhere.

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
            inverse=True,
            num_transforms=self.num_transforms,
            hidden=self.hidden,
            passes=self.passes,
        )
