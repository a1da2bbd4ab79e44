"""VampPrior: a mixture of the posteriors of learned inputs."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.models.mixtures import MixtureDistribution
from elbo_bench.models.priors.base import Prior

_EDGE = 0.01
"""Training means are clamped to this distance from the ends of the range, as a share of the range."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vamp(Prior):
    r"""Mixture of the posteriors q(z|u) of C learned pseudo-inputs u.

    .. math:: p(z) = \sum_{c=1}^C \pi_c\, q(z|u_c)

    The pseudo-inputs have the shape and units of the data. For discrete data a sigmoid keeps them between the lowest
    and the highest level. They are initialised around the training mean. The density has a gradient in the encoder.
    Each call of `prior()` encodes all pseudo-inputs, and a density takes C densities of the posterior. This is
    expensive if the posterior is a flow.

    Source: Tomczak & Welling, 2018, "VAE with a VampPrior".

    Attributes:
        num_components: Number of pseudo-inputs, C.
        learn_weights: Whether the weights pi are learned. Otherwise they are equal.
        init_noise: Standard deviation of the initial pseudo-inputs around the training mean, in log-odds for discrete
            data and in the units of the data for continuous data.
    """

    num_components: PositiveInt = 500
    learn_weights: bool = False
    init_noise: PositiveFloat = 1.0

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _VampModule(info, self.num_components, self.learn_weights, self.init_noise)


class _VampModule(nn.Module):
    logits: Tensor

    def __init__(self, info: DataInfo, num_components: int, learn_weights: bool, init_noise: float) -> None:
        super().__init__()
        self.num_levels = info.num_levels
        centre = info.train_mean
        if info.num_levels is not None:
            centre = torch.logit((centre / (info.num_levels - 1)).clamp(_EDGE, 1 - _EDGE))
        self.raw = nn.Parameter(centre + init_noise * torch.randn(num_components, *info.shape))
        logits = torch.zeros(num_components)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def pseudo_inputs(self) -> Float[Tensor, "C *data"]:
        """Return u, in the units of the data."""
        return self.raw if self.num_levels is None else torch.sigmoid(self.raw) * (self.num_levels - 1)

    def forward(self, encoder: Callable[[Tensor], Distribution]) -> MixtureDistribution:
        inputs = self.pseudo_inputs()
        return MixtureDistribution(encoder(inputs), self.logits, lambda index: encoder(inputs[index]))
