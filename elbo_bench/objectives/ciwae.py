"""A weighted mean of the ELBO and the importance-weighted bound."""

import dataclasses
from typing import Annotated

from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class CIWAE(Objective):
    r"""Weighted mean of the ELBO and the importance-weighted bound, in nats.

    .. math:: \beta \frac1K \sum_k \log w_k + (1 - \beta) L_K

    A lower bound on log p(x) in expectation.

    Source: Rainforth et al., 2018, "Tighter variational bounds are not necessarily better".

    Attributes:
        beta: Weight of the ELBO, from 0 to 1.
    """

    num_samples: PositiveInt = 5
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        if self.beta == 1:  # avoids 0 * inf = NaN
            return draws.log_w.mean(0)
        tight = log_mean_exp(draws.log_w)
        return tight if self.beta == 0 else self.beta * draws.log_w.mean(0) + (1 - self.beta) * tight
