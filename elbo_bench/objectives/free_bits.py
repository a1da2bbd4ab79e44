"""The ELBO with a rate that is free up to some nats a dimension."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeBits(Objective):
    r"""ELBO whose rate counts as at least so many nats in each latent dimension, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \sum_j \max(\lambda, \mathrm{KL}(q(z_j|x) \| p(z_j)))

    A dimension below the floor is not pushed towards the prior (Kingma et al., 2016, "Improving variational
    inference with inverse autoregressive flow"; there KL_j is averaged over the minibatch first, here it is each
    example's own, so that an example's bound does not depend on its neighbours).

    Attributes:
        free_nats: The floor lambda, in nats a dimension.
    """

    free_nats: NonNegativeFloat = 0.1

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound: the rate is only ever overstated."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        rate = draws.analytic_kl_per_dim().clamp(min=self.free_nats).sum(-1)
        return draws.log_p_x_given_z.mean(0) - rate
