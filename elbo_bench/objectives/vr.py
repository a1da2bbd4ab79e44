"""The variational Rényi bound."""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class VR(Objective):
    r"""Variational Rényi bound of order alpha, in nats.

    .. math:: \frac1{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}

    It is L_K at alpha = 0 and the ELBO at alpha = 1. In expectation it is a lower bound on log p(x) for alpha >= 0. For
    alpha < 0 it is no bound at finite K.

    Source: Li & Turner, 2016, "Rényi divergence variational inference".

    Attributes:
        alpha: Order of the divergence.
    """

    num_samples: PositiveInt = 5
    alpha: float = 0.5

    @property
    def direction(self) -> Literal["lower", "none"]:
        """A lower bound for alpha >= 0, no bound below."""
        return "lower" if self.alpha >= 0 else "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return renyi(draws.log_w, self.alpha)


def renyi(log_w: Float[Tensor, "K B"], alpha: float) -> Float[Tensor, " B"]:
    """Return the Rényi bound of order alpha. At alpha = 1 it is the ELBO.

    The mean log-weight is subtracted first. This keeps precision near alpha = 1, where 1 - alpha is close to zero.
    """
    mean = log_w.mean(0)
    if alpha == 1:
        return mean
    centre = mean.detach()
    centre = torch.where(centre.isfinite(), centre, 0.0)
    power = (1 - alpha) * (log_w - centre)
    small = power.abs().amax(0) < 0.1
    near = torch.log1p(torch.expm1(torch.where(small, power, 0.0)).mean(0))
    return centre + torch.where(small, near, log_mean_exp(power)) / (1 - alpha)
