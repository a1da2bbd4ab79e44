"""The evidence lower bound with an analytic entropy of q(z|x)."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELBOEntropy(Objective):
    r"""Evidence lower bound with the entropy of q(z|x) in closed form, in nats.

    .. math:: \frac1K \sum_k \log p(x, z_k) + \mathrm{H}[q(z|x)]

    Use it with a prior that has a density but no KL divergence in closed form.

    Source: Jordan et al., 1999, "An introduction to variational methods for graphical models".
    """

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return (draws.log_p_x_given_z + draws.log_p_z).mean(0) + draws.posterior_entropy()
