"""The evidence lower bound with an analytic KL divergence."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBOAnalytic(Objective):
    r"""Evidence lower bound with the rate in closed form, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \mathrm{KL}(q(z|x) \| p(z))

    Compared with `elbo_mc` it has less variance far from the optimum, and more variance at the optimum
    (Roeder et al., 2017).

    Source: Kingma & Welling, 2014, "Auto-encoding variational Bayes", eq. 7.
    """

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return draws.log_p_x_given_z.mean(0) - draws.analytic_kl()
