"""The ELBO with its rate held at a capacity."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws, RateForm
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(Objective):
    r"""Distortion with a penalty for a rate that is not the capacity, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \gamma \, | \mathrm{KL}(q(z|x) \| p(z)) - C |

    Usually C is warmed up from 0 (Burgess et al., 2018, "Understanding disentangling in beta-VAE"). No bound on log
    p(x).

    Attributes:
        gamma: Weight of the penalty.
        capacity: C, in nats.
        kl: Whether the rate is the closed form or the mean of log q(z|x) - log p(z).
    """

    gamma: NonNegativeFloat = 1000.0
    capacity: NonNegativeFloat = 25.0
    kl: RateForm = "analytic"

    @property
    def direction(self) -> Literal["none"]:
        """None: a rate below the capacity is a cost, too."""
        return "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the penalised sum for each example."""
        return draws.log_p_x_given_z.mean(0) - self.gamma * (draws.rate(self.kl) - self.capacity).abs()
