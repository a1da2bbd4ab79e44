"""Masked autoregressive flow prior."""

import dataclasses
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.models.networks.flows import FlowDistribution, autoregressive
from elbo_bench.models.priors.base import Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowPrior(Prior):
    r"""Masked autoregressive flow.

    .. math:: \epsilon_j = (z_j - m_j(z_{<j})) / s_j(z_{<j}), \quad \epsilon \sim N(0, I)

    This is one transformation; `num_transforms` of them are composed. Computing a density takes one pass through each
    network. Drawing a sample takes `passes` passes. At initialisation the prior is close to N(0, I).

    Source: Papamakarios et al., 2017, "Masked autoregressive flow for density estimation".

    Attributes:
        num_transforms: Number of transformations. The order of the dimensions is reversed between two of them.
        hidden: Widths of the hidden layers of the network of each transformation.
        passes: Number of groups of dimensions. A group depends on the groups before it. 2 is a coupling flow; None is
            one group for each dimension.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 3
    hidden: tuple[PositiveInt, ...] = (64, 64)
    passes: Annotated[int, Field(ge=2)] | None = None

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _FlowModule(latent_dim, self)


class _FlowModule(nn.Module):
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, flow: FlowPrior) -> None:
        super().__init__()
        self.transform = autoregressive(
            latent_dim, 0, num_transforms=flow.num_transforms, hidden=flow.hidden, passes=flow.passes
        )
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, encoder: object) -> FlowDistribution:  # noqa: ARG002
        return FlowDistribution(self.loc, self.scale, self.transform(None))
