"""Reweighted wake-sleep with the wake-phase update of the encoder."""

import dataclasses

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class RWS(Objective):
    r"""Importance-weighted bound with the wake-phase encoder gradient, in nats.

    .. math:: L_K, \qquad \nabla_\phi: \sum_k \tilde w_k \, \nabla_\phi \log q(z_k|x)

    A lower bound on log p(x) in expectation. The encoder descends an estimate of KL(p(z|x) ‖ q(z|x)), which is biased
    at finite K. No gradient flows through the samples, so z may be discrete.

    Source: Bornschein & Bengio, 2015, "Reweighted wake-sleep"; Le et al., 2019, "Revisiting reweighted wake-sleep for
    models with stochastic control flow".
    """

    num_samples: PositiveInt = 5

    direction = "lower"
    reparameterised = False
    gradient = "decoder"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        weights = draws.log_w.softmax(0)
        return estimator(log_mean_exp(draws.log_w), draws, decoder=weights, score=weights)
