"""The variational Renyi bound."""

import dataclasses
from typing import ClassVar, Literal

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
    """Return the Rényi bound of order alpha; the ELBO at alpha = 1, which is its limit."""
    if alpha == 1:
        return log_w.mean(0)
    return log_mean_exp((1 - alpha) * log_w) / (1 - alpha)
