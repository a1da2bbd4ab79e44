"""The ELBO with free bits: a minimum rate for each latent dimension."""

import dataclasses

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBits(Objective):
    r"""ELBO in which each latent dimension counts with at least lambda nats of rate, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \sum_j \max(\lambda, \mathrm{KL}(q(z_j|x) \| p(z_j)))

    A dimension below the minimum is not pushed towards the prior. The rate is never understated, so the value is a
    lower bound on log p(x).

    Source: Kingma et al., 2016, "Improving variational inference with inverse autoregressive flow". The paper averages
    KL_j over the minibatch before taking the maximum. Here the maximum is taken for each example, so that the bound of
    one example does not depend on the others.

    Attributes:
        free_nats: Minimum lambda of each dimension, in nats.
    """

    free_nats: NonNegativeFloat = 0.1

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        rate = draws.analytic_kl_per_dim().clamp(min=self.free_nats).sum(-1)
        return draws.log_p_x_given_z.mean(0) - rate
