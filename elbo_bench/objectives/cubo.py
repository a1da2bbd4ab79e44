"""The chi upper bound."""

import dataclasses
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class CUBO(Objective):
    r"""Chi upper bound of order n, in nats.

    .. math:: \frac1n \log \frac1K \sum_k w_k^n, \qquad \nabla_\theta: \nabla_\theta L_K, \quad
        \nabla_\phi: -\nabla_\phi \mathrm{CUBO}_n

    An upper bound on log p(x) in the limit of large K. At finite K it is no bound: the logarithm of a mean is biased
    low, and for K = 1 the value is the ELBO. The encoder descends the value, the decoder ascends L_K.

    Source: Dieng et al., 2017, "Variational inference via chi upper bound minimization".

    Attributes:
        order: Order n, at least 1.
    """

    num_samples: PositiveInt = 5
    order: Annotated[float, Field(ge=1, le=100)] = 2.0

    direction = "none"
    gradient = "own"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        value = log_mean_exp(self.order * log_w) / self.order
        decoder, encoder = log_w.softmax(0), (self.order * log_w).softmax(0)
        # The order is at least 1, so the encoder weight is zero where the decoder weight is zero.
        ratio = torch.where(decoder > 0, encoder / decoder, 0.0)
        return estimator(value, draws, decoder=decoder, path=-ratio, score=encoder)
