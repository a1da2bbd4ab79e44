"""The evidence lower bound as the mean log-weight."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBOMC(Objective):
    r"""Evidence lower bound with a Monte Carlo rate, in nats.

    .. math:: \frac1K \sum_k \log \frac{p(x, z_k)}{q(z_k|x)}

    It needs no closed form. Where q(z|x) equals p(z|x), its value is log p(x) for every draw.

    Source: Kingma & Welling, 2014, "Auto-encoding variational Bayes", eq. 6.
    """

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return draws.log_w.mean(0)
