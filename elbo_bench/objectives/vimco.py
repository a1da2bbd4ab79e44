"""VIMCO: the importance-weighted bound with a score-function gradient."""

import dataclasses
import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp, log_sum_exp_of_others, without_each
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class VIMCO(Objective):
    r"""Importance-weighted bound with the VIMCO encoder gradient, in nats.

    .. math:: L_K, \qquad \nabla_\phi: \sum_k (L_K - \hat L^{-k}) \, \nabla_\phi \log q(z_k|x)
        + \sum_k \tilde w_k \nabla_\phi \log w_k

    A lower bound on log p(x) in expectation. The baseline of sample k is L_K with w_k replaced by the geometric mean of
    the other weights. It does not depend on z_k, so the gradient is unbiased. No gradient flows through the samples, so
    z may be discrete.

    Source: Mnih & Rezende, 2016, "Variational inference for Monte Carlo objectives".
    """

    num_samples: Annotated[int, Field(ge=2)] = 5

    direction = "lower"
    reparameterised = False
    gradient = "unbiased"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        value = log_mean_exp(log_w)
        if not torch.is_grad_enabled():
            return value
        log_w = log_w.detach()
        weights = log_w.softmax(0)
        return estimator(value, draws, decoder=weights, score=value.detach() - self._baselines(log_w) - weights)

    @staticmethod
    def _baselines(log_w: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        """Return L_K with each sample's log-weight replaced by the mean of the others'."""
        others = torch.stack([rest.mean(0) for rest in without_each(log_w)])
        baselines = torch.logaddexp(log_sum_exp_of_others(log_w), others) - math.log(len(log_w))
        # If all other weights are zero, any constant is a valid baseline.
        return baselines.masked_fill(baselines == -math.inf, 0.0)
