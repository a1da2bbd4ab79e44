"""The evidence lower bound as a sum over every value of a discrete latent."""

import dataclasses
import math
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Enumerated(Objective):
    r"""Evidence lower bound of a discrete latent, its expectation summed exactly, in nats.

    .. math:: \sum_z q(z|x) \log \frac{p(x, z)}{q(z|x)}

    Neither its value nor its gradient has any noise: what estimators for discrete latents are held against. It is given
    every value of z in the place of samples.
    """

    num_samples: Literal[1] = 1

    latents: ClassVar[Literal["enumerated"]] = "enumerated"

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_q = draws.log_q_z_given_x
        impossible = log_q == -math.inf  # q has no mass there, and the sum no term
        terms = log_q.exp() * draws.log_w.masked_fill(impossible, 0.0)
        return terms.sum(0)
