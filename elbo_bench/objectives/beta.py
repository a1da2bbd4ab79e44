"""The beta-VAE objective: the ELBO with a weighted rate."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws, RateForm
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaELBO(Objective):
    r"""ELBO with its rate weighted by beta, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \beta \, \mathrm{KL}(q(z|x) \| p(z))

    For beta >= 1 the value is at most the ELBO, hence a lower bound on log p(x). For beta < 1 it is no bound.

    Source: Higgins et al., 2017, "beta-VAE: learning basic visual concepts with a constrained variational framework",
    eq. 4.

    Attributes:
        beta: Weight of the rate.
        kl: `"analytic"` for the rate in closed form, `"mc"` for the mean of log q(z|x) - log p(z) over the samples.
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
