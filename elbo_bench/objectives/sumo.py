"""Russian roulette over the importance-weighted bounds."""

import dataclasses
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import NOTHING
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class SUMO(Objective):
    r"""SUMO: a randomly truncated sum of the steps from one importance-weighted bound to the next, in nats.

    .. math:: L_1 + \sum_{k=1}^{T} \frac{L_{k+1} - L_k}{P(T \ge k)}, \qquad P(T \ge k) = \frac1k

    Without a cap on T it is unbiased for log p(x), with a heavy tail. Here T is at most K - 1: then it is unbiased
    for L_K, hence a lower bound. The expectation of its encoder gradient is nearly zero, as log p(x) does not
    depend on q, so the encoder descends half the square of the value instead, that is, its variance (Luo et al.,
    2020, "SUMO: unbiased estimation of log marginal probability for latent variable models"). All K samples are
    drawn, whatever T is.
    """

    num_samples: PositiveInt = 16

    gradient: ClassVar[Literal["decoder"]] = "decoder"
    of_log_w: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the estimate for each example.

        Raises:
            ValueError: The draws carry no noise to draw T from.
        """
        if draws.noise is None:
            raise ValueError("these draws carry no noise, and SUMO draws how many samples it takes")
        log_w = draws.log_w.detach().requires_grad_(torch.is_grad_enabled())
        normal = draws.noise.normal((1, log_w.shape[1]), dtype=log_w.dtype, device=log_w.device)
        value = self._value(log_w, torch.special.ndtr(normal[0]))
        if not log_w.requires_grad:
            return value
        (decoder,) = torch.autograd.grad(value.sum(), log_w)
        value = value.detach()
        return estimator(value, draws, decoder=decoder, path=-value.expand_as(decoder), score=value * decoder)

    @staticmethod
    def _value(log_w: Float[Tensor, "K B"], uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the truncated sum; T >= k where `uniform` is at most 1/k."""
        count = torch.arange(1, len(log_w) + 1, dtype=log_w.dtype, device=log_w.device)[:, None]
        bounds = torch.logcumsumexp(log_w.clamp(min=NOTHING), 0) - count.log()
        # The first step is always taken: L_1 + (L_2 - L_1) is L_2, also where L_1 is -inf.
        bounds, count = bounds[1:] if len(log_w) > 1 else bounds, count[1:-1]
        value = bounds[0] + torch.where(uniform * count <= 1, count * bounds.diff(dim=0), 0.0).sum(0)
        infinite = torch.full_like(value, math.inf).copysign(value.detach())
        return torch.where(value.abs() > -NOTHING / 2, infinite, value)
