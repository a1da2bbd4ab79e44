"""Standard normal prior."""

import dataclasses

import torch
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import DiagonalNormal
from elbo_bench.models.priors.base import Prior


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandardNormal(Prior):
    """Standard normal prior, N(0, I)."""

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _StandardNormalModule(latent_dim)


class _StandardNormalModule(nn.Module):
    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        # Buffers, so that they have the dtype and device of the model. They are not saved in checkpoints.
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, encoder: object) -> DiagonalNormal:  # noqa: ARG002
        return DiagonalNormal(self.loc, self.scale)
