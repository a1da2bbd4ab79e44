"""The importance-weighted bound with doubly reparameterised gradients."""

import dataclasses

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class DReG(Objective):
    r"""Importance-weighted bound with the doubly reparameterised encoder gradient, in nats.

    .. math:: L_K, \qquad \nabla_\phi: \sum_k \tilde w_k^2 \, (\nabla_\phi z_k)' \nabla_z \log w_k

    A lower bound on log p(x) in expectation. The encoder gradient is unbiased for the gradient of L_K. Its
    signal-to-noise ratio grows as sqrt(K), while that of `iwae` falls as 1/sqrt(K).

    Source: Tucker et al., 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives".
    """

    num_samples: PositiveInt = 5

    direction = "lower"
    gradient = "unbiased"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        weights = draws.log_w.softmax(0)
        return estimator(log_mean_exp(draws.log_w), draws, decoder=weights, path=weights)
