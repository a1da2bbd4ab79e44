"""The thermodynamic variational objective."""

import dataclasses
import itertools
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import weighted_sum
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class TVO(Objective):
    r"""Thermodynamic variational objective: a Riemann sum over the path from q(z|x) to p(z|x), in nats.

    .. math:: \sum_{p=0}^{P-1} (\beta_{p+1} - \beta_p) \, \mathrm{E}_{\pi_{\beta_p}}[\log w], \qquad
        \pi_\beta(z) \propto q(z|x) \, w^\beta

    Each expectation is estimated by self-normalised importance weights. beta goes from 0 to 1. Its inner points are
    spaced evenly in log(beta).

    The left sum is a lower bound. It is the ELBO for P = 1, and for the same draws it is at most L_K. The right sum is
    an upper bound only with exact expectations, so here it is no bound. The gradient is the covariance form. No
    gradient flows through the samples, so z may be discrete.

    Source: Masrani, Le & Wood, 2019, "The thermodynamic variational objective".

    Attributes:
        num_partitions: Number of intervals, P.
        first_beta: The first inner point of beta.
        side: The end of each interval at which the expectation is taken.
    """

    num_samples: Annotated[int, Field(ge=2)] = 10
    num_partitions: Annotated[int, Field(ge=1, le=1000)] = 5
    first_beta: Annotated[float, Field(gt=0, lt=1)] = 0.025
    side: Literal["left", "right"] = "left"

    reparameterised = False
    gradient = "decoder"

    @property
    def direction(self) -> Literal["lower", "none"]:
        """The left sum is a lower bound, the right one none with estimated expectations."""
        return "lower" if self.side == "left" else "none"

    @property
    def betas(self) -> tuple[float, ...]:
        """The ends of the intervals, P + 1 of them from 0 to 1."""
        steps = self.num_partitions - 1
        return (0.0, *(self.first_beta ** (1 - step / steps) for step in range(steps)), 1.0)

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the sum for each example."""
        log_w = draws.log_w.detach()
        value, decoder, score = torch.zeros_like(log_w[0]), torch.zeros_like(log_w), torch.zeros_like(log_w)
        for low, high in itertools.pairwise(self.betas):
            beta = low if self.side == "left" else high
            weights = (beta * log_w).softmax(0) if beta > 0 else torch.full_like(log_w, 1 / len(log_w))
            mean = weighted_sum(weights, log_w)
            # The gradient of an expectation under pi: E[grad f] + Cov(grad log pi~, f), pi~ = q^(1-beta) p^beta.
            spread = weights * (log_w - mean).masked_fill(weights == 0, 0.0)
            value = value + (high - low) * mean
            decoder = decoder + (high - low) * (weights + beta * spread)
            score = score + (high - low) * ((1 - beta) * spread - weights)
        return estimator(value, draws, decoder=decoder, score=score)
