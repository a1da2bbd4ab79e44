"""A masked autoregressive flow as prior."""

import dataclasses
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.models.flows import Flow as FlowDistribution
from elbo_bench.models.flows import autoregressive
from elbo_bench.models.priors.base import Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow(Prior):
    r"""Masked autoregressive flow (Papamakarios et al., 2017, "Masked autoregressive flow for density estimation").

    .. math:: \epsilon_j = (z_j - m_j(z_{<j})) / s_j(z_{<j}), \quad \epsilon \sim N(0, I)

    and so on for each transformation. The density is the fast direction, one pass through each network; a sample takes
    `passes`. It begins near N(0, I).

    Attributes:
        num_transforms: Transformations, one after the other, the order of the dimensions reversed in between.
        hidden: Widths of the hidden layers of each transformation's network.
        passes: Groups of dimensions, each of which depends on those before it; 2 is a coupling flow, None one group a
            dimension.
    """

    num_transforms: Annotated[int, Field(ge=1, le=100)] = 3
    hidden: tuple[PositiveInt, ...] = (64, 64)
    passes: Annotated[int, Field(ge=2)] | None = None

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _Flow(latent_dim, self)


class _Flow(nn.Module):
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, flow: Flow) -> None:
        super().__init__()
        self.transform = autoregressive(latent_dim, 0, flow.num_transforms, flow.hidden, flow.passes)
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, encoder: object) -> FlowDistribution:  # noqa: ARG002
        return FlowDistribution(self.loc, self.scale, self.transform(None))
