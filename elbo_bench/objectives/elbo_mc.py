"""The evidence lower bound as the mean log-weight."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBOMC(Objective):
    r"""Evidence lower bound with a Monte Carlo rate, in nats.

    .. math:: \frac1K \sum_k \log \frac{p(x, z_k)}{q(z_k|x)}

    Needs no closed form, and its gap to log p(x) is exact draw by draw where q is the posterior (Kingma & Welling,
    2014, "Auto-encoding variational Bayes", eq. 6).
    """

    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return draws.log_w.mean(0)
