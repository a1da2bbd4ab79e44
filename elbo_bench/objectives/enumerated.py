"""The evidence lower bound of a discrete latent, without sampling."""

import dataclasses
import math
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enumerated(Objective):
    r"""Evidence lower bound as an exact sum over every value of a discrete latent, in nats.

    .. math:: \sum_z q(z|x) \log \frac{p(x, z)}{q(z|x)}

    The value and its gradient have no Monte Carlo error. Use them as the reference for estimators with discrete
    latents.
    """

    num_samples: Literal[1] = 1

    direction = "lower"
    latents = "enumerated"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_q = draws.log_q_z_given_x
        impossible = log_q == -math.inf  # q has no mass there, so the term is zero
        terms = log_q.exp() * draws.log_w.masked_fill(impossible, 0.0)
        return terms.sum(0)
