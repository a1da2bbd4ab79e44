"""The importance-weighted bound without the score of q(z|x): a biased encoder gradient."""

import dataclasses

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAESTL(Objective):
    r"""Importance-weighted bound whose encoder gradient omits the score of q(z|x), in nats.

    .. math:: L_K, \qquad \nabla_\phi: \sum_k \tilde w_k \, (\nabla_\phi z_k)' \nabla_z \log w_k

    A lower bound on log p(x) in expectation. For K > 1 the omitted score term has a nonzero expectation, so the encoder
    gradient is biased. It is the sum of the encoder gradients of `dreg` and `rws_dreg`. Use it to measure that bias or
    to reproduce published results.

    Source: Tucker et al., 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives".
    """

    num_samples: PositiveInt = 5

    direction = "lower"
    gradient = "decoder"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return estimator(log_mean_exp(draws.log_w), draws, decoder=draws.log_w.softmax(0))
