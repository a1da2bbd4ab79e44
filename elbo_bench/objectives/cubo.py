"""The chi upper bound."""

import dataclasses
from typing import Annotated, ClassVar, Literal

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

    An upper bound on log p(x) as K grows; at finite K the logarithm pulls it down, and it is no bound: for K = 1 it is
    the ELBO. The encoder descends it, the decoder ascends L_K (Dieng et al., 2017, "Variational inference via chi upper
    bound minimization").

    Attributes:
        order: n.
    """

    num_samples: PositiveInt = 5
    order: Annotated[float, Field(ge=1, le=100)] = 2.0

    gradient: ClassVar[Literal["own"]] = "own"
    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["none"]:
        """None at finite K: the logarithm of a mean is biased low."""
        return "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        value = log_mean_exp(self.order * log_w) / self.order
        decoder, encoder = log_w.softmax(0), (self.order * log_w).softmax(0)
        # As the order is at least 1, the encoder's weight is nothing where the decoder's is.
        ratio = torch.where(decoder > 0, encoder / decoder, 0.0)
        return estimator(value, draws, decoder=decoder, path=-ratio, score=encoder)
