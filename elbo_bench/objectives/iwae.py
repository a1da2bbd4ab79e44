"""The importance-weighted bound."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAE(Objective):
    r"""Importance-weighted bound, in nats.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}

    A lower bound on log p(x) in expectation, tighter as K grows (Burda et al., 2016, "Importance weighted
    autoencoders", eq. 8). The encoder's signal-to-noise ratio falls as 1/sqrt(K) (Rainforth et al., 2018, theorem 1).
    """

    num_samples: PositiveInt = 5

    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return log_mean_exp(draws.log_w)
