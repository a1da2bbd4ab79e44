"""Distortion with a penalty on the distance of the rate from a target."""

import dataclasses

from jaxtyping import Float
from pydantic import NonNegativeFloat
from torch import Tensor

from elbo_bench.draws import Draws, RateForm
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(Objective):
    r"""Distortion with a penalty on the distance of the rate from a target, in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - \gamma \, | \mathrm{KL}(q(z|x) \| p(z)) - C |

    The target C is usually warmed up from 0. The value is no bound on log p(x).

    Source: Burgess et al., 2018, "Understanding disentangling in beta-VAE".

    Attributes:
        gamma: Weight of the penalty.
        capacity: Target of the rate, C, in nats.
        kl: `"analytic"` for the rate in closed form, `"mc"` for the mean of log q(z|x) - log p(z) over the samples.
    """

    gamma: NonNegativeFloat = 1000.0
    capacity: NonNegativeFloat = 25.0
    kl: RateForm = "analytic"

    direction = "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the penalised sum for each example."""
        return draws.log_p_x_given_z.mean(0) - self.gamma * (draws.rate(self.kl) - self.capacity).abs()
