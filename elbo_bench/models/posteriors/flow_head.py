"""The keys and the head that all flow posteriors share."""

import dataclasses
from typing import Annotated, ClassVar

from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from elbo_bench.models.networks.flows import FlowDistribution, autoregressive
from elbo_bench.models.networks.mlp_layers import linear
from elbo_bench.models.posteriors.base import Posterior


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowPosterior(Posterior):
    """A flow around a diagonal normal distribution.

    Attributes:
        num_transforms: Number of transformations. The order of the dimensions is reversed between two of them.
        hidden: Widths of the hidden layers of the network of each transformation.
        passes: Number of groups of dimensions. A group depends on the groups before it. 2 is a coupling flow; None is
            one group for each dimension.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 2
    hidden: tuple[PositiveInt, ...] = (64, 64)
    passes: Annotated[int, Field(ge=2)] | None = None

    inverse: ClassVar[bool] = False
    """Whether one pass through the networks maps noise to samples (IAF) or samples to noise (MAF)."""

    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return the module that maps features to q(z|x). The features are the context of each transformation."""
        return FlowHead(num_features, latent_dim, self)


class FlowHead(nn.Module):
    """Maps features to a flow. At initialisation the flow is close to its diagonal normal base."""

    def __init__(self, num_features: int, latent_dim: int, keys: FlowPosterior) -> None:
        super().__init__()
        self.loc = linear(num_features, latent_dim)
        self.log_scale = linear(num_features, latent_dim)
        self.inverse = keys.inverse
        self.transform = autoregressive(
            latent_dim,
            num_features,
            num_transforms=keys.num_transforms,
            hidden=keys.hidden,
            passes=keys.passes,
            num_bins=getattr(keys, "num_bins", None),
        )

    def forward(self, features: Float[Tensor, "B F"]) -> FlowDistribution:
        """Return q(z|x)."""
        transform = self.transform(features)
        to_noise = transform.inv if self.inverse else transform
        return FlowDistribution(self.loc(features), self.log_scale(features).exp(), to_noise)
