"""The importance-weighted bound."""

import dataclasses

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAE(Objective):
    r"""Importance-weighted bound, in nats.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k|x)}

    A lower bound on log p(x) in expectation, tighter as K grows. The signal-to-noise ratio of the encoder gradient
    falls as 1/sqrt(K) (Rainforth et al., 2018, theorem 1): see `dreg`.

    Source: Burda et al., 2016, "Importance weighted autoencoders", eq. 8.
    """

    num_samples: PositiveInt = 5

    direction = "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return log_mean_exp(draws.log_w)
