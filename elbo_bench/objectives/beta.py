"""The ELBO with its rate weighted by beta."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws, RateForm
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaELBO(Objective):
    r"""ELBO whose rate is weighted by beta, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \beta \, \mathrm{KL}(q(z|x) \| p(z))

    A lower bound on log p(x) only for beta >= 1, where it lies below the ELBO (Higgins et al., 2017, "beta-VAE",
    eq. 4).

    Attributes:
        beta: Weight of the rate.
        kl: Whether the rate is the closed form or the mean of log q(z|x) - log p(z).
    """

    beta: NonNegativeFloat = 4.0
    kl: RateForm = "analytic"

    @property
    def direction(self) -> Literal["lower", "none"]:
        """A lower bound for beta >= 1, no bound below."""
        return "lower" if self.beta >= 1 else "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the weighted sum for each example."""
        return draws.log_p_x_given_z.mean(0) - self.beta * draws.rate(self.kl)
