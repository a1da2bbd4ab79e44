"""The variational Renyi bound."""

import dataclasses
from typing import ClassVar, Literal

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

    L_K at alpha = 0, the ELBO at alpha = 1. In expectation a lower bound for alpha >= 0; for alpha < 0 it can lie on
    either side at finite K (Li & Turner, 2016, "Rényi divergence variational inference").

    Attributes:
        alpha: Order of the divergence.
    """

    num_samples: PositiveInt = 5
    alpha: float = 0.5

    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["lower", "none"]:
        """A lower bound for alpha >= 0, no bound below."""
        return "lower" if self.alpha >= 0 else "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return renyi(draws.log_w, self.alpha)


def renyi(log_w: Float[Tensor, "K B"], alpha: float) -> Float[Tensor, " B"]:
    """Return the Rényi bound of order alpha; the ELBO at alpha = 1, which is its limit.

    About the mean: near alpha = 1 a difference of logarithms is divided by almost nothing.
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
