"""Sticking the landing: the ELBO without the score of q(z|x) in its gradient."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class STL(Objective):
    r"""ELBO whose encoder gradient omits the score of q(z|x), in nats.

    .. math:: \frac1K \sum_k \log w_k, \qquad \nabla_\phi: \frac1K \sum_k (\nabla_\phi z_k)' \nabla_z \log w_k

    The score has expectation zero, so the gradient stays unbiased. Where q(z|x) equals p(z|x), the encoder gradient is
    zero for every draw.

    Source: Roeder, Wu & Duvenaud, 2017, "Sticking the landing: simple, lower-variance gradient estimators for
    variational inference".
    """

    direction = "lower"
    gradient = "unbiased"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        return estimator(log_w.mean(0), draws, decoder=torch.full_like(log_w, 1 / len(log_w)))
