"""The variational Rényi bound, by Monte Carlo."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renyi(Objective):
    r"""Rényi bound, in nats; the IWAE for alpha = 0, the ELBO as alpha goes to 1.

    .. math:: \frac1{1-\alpha} \log \frac1K \sum_{k=1}^K w_k^{1-\alpha}

    (Li & Turner, 2016, "Rényi divergence variational inference", eq. 9.)
    """

    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.5

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Tensor:
        """Return the bound for each example."""
        return log_mean_exp((1 - self.alpha) * draws.log_w) / (1 - self.alpha)
