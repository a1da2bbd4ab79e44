"""The variational Rényi bound with doubly reparameterised gradients."""

import dataclasses
from typing import Annotated

from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator
from elbo_bench.objectives.vr import renyi


@dataclasses.dataclass(frozen=True, kw_only=True)
class VRIWAEDReG(Objective):
    r"""Variational Rényi bound with the doubly reparameterised encoder gradient, in nats.

    .. math:: \frac1{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}, \qquad
        \nabla_\phi: \sum_k (\alpha \tilde w_k + (1 - \alpha) \tilde w_k^2) (\nabla_\phi z_k)' \nabla_z \log w_k

    The normalised weights are proportional to w^(1 - alpha). A lower bound on log p(x) in expectation. It is `dreg` at
    alpha = 0 and approaches `stl` as alpha goes to 1.

    Source: Daudel et al., 2023, "Alpha-divergence variational inference meets importance weighted auto-encoders:
    methodology and asymptotics".

    Attributes:
        alpha: Order of the divergence, at least 0 and below 1.
    """

    num_samples: PositiveInt = 5
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.5

    direction = "lower"
    gradient = "unbiased"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        weights = ((1 - self.alpha) * draws.log_w).softmax(0)
        path = self.alpha + (1 - self.alpha) * weights
        return estimator(renyi(draws.log_w, self.alpha), draws, decoder=weights, path=path)
