"""Neural spline flows as posteriors."""

import dataclasses
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from elbo_bench.models.posteriors.base import Posterior
from elbo_bench.models.posteriors.flow_head import FlowHead


@dataclasses.dataclass(frozen=True, kw_only=True)
class NSF(Posterior):
    r"""Neural spline flow around a diagonal normal.

    Each value is changed by a monotonic rational-quadratic spline on [-5, 5], and left alone outside, whose bins
    depend on other values and on x (Durkan et al., 2019, "Neural spline flows"). The splines act on the standardised
    latent, (z - mu) / sigma. The density is the fast direction, one pass through each network; a sample takes
    `passes`: with two, a coupling flow, both are cheap.

    It begins near the diagonal posterior.

    Attributes:
        num_transforms: Transformations, one after the other, the order of the dimensions reversed in between.
        hidden: Widths of the hidden layers of each transformation's network.
        passes: Groups of dimensions, each of which depends on those before it; 2 is a coupling flow, None one group a
            dimension.
        num_bins: Bins of each spline.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 3
    hidden: tuple[PositiveInt, ...] = (64, 64)
    passes: Annotated[int, Field(ge=2)] | None = 2
    num_bins: Annotated[int, Field(ge=2)] = 8

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the head."""
        return FlowHead(
            num_features,
            latent_dim,
            inverse=False,
            num_transforms=self.num_transforms,
            hidden=self.hidden,
            passes=self.passes,
            num_bins=self.num_bins,
        )
