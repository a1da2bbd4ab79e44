"""The VampPrior: a mixture of what the encoder makes of learned inputs."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Distribution

from elbo_bench.data_info import DataInfo
from elbo_bench.models.mixtures import Mixture
from elbo_bench.models.priors.base import Prior

_EDGE = 0.01
"""How far from the ends of the range a training mean is taken to be, as a share of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vamp(Prior):
    r"""Mixture of the encoder's posteriors of C pseudo-inputs, which are learned.

    .. math:: p(z) = \sum_{c=1}^C \pi_c\, q(z|u_c)

    (Tomczak & Welling, 2018, "VAE with a VampPrior".) The pseudo-inputs have the data's shape and units; those of
    discrete data stay between the lowest and the highest level, by a sigmoid. They begin around the training mean. The
    density has a gradient in the encoder too. All of them are encoded whenever the model is asked for its prior, and a
    density is C densities of the posterior: dear for one that is a flow.

    Attributes:
        num_components: C.
        learn_weights: Whether the weights pi are learned, or all equal.
        init_noise: Standard deviation around the training mean of where they begin: of the log-odds of discrete data,
            of continuous data in its own units.
    """

    num_components: PositiveInt = 500
    learn_weights: bool = False
    init_noise: PositiveFloat = 1.0

    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:  # noqa: ARG002
        """Return the module."""
        return _Vamp(info, self.num_components, self.learn_weights, self.init_noise)


class _Vamp(nn.Module):
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
        """Return u, in the data's units."""
        return self.raw if self.num_levels is None else torch.sigmoid(self.raw) * (self.num_levels - 1)

    def forward(self, encoder: Callable[[Tensor], Distribution]) -> Mixture:
        inputs = self.pseudo_inputs()
        return Mixture(encoder(inputs), self.logits, lambda index: encoder(inputs[index]))
