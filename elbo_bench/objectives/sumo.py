"""SUMO: a randomly truncated sum over the importance-weighted bounds."""

import dataclasses
import math

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
    r"""SUMO: a randomly truncated sum of the differences of successive importance-weighted bounds, in nats.

    .. math:: L_1 + \sum_{k=1}^{T} \frac{L_{k+1} - L_k}{P(T \ge k)}, \qquad P(T \ge k) = \frac1k

    Without a limit on T the value is unbiased for log p(x) and has a heavy tail. Here T is at most K - 1, so the value
    is unbiased for L_K and a lower bound. All K samples are drawn, whatever T is.

    log p(x) does not depend on q(z|x), so the encoder gradient of the value is close to zero in expectation. The
    encoder therefore descends half the square of the value, which reduces its variance.

    Source: Luo et al., 2020, "SUMO: unbiased estimation of log marginal probability for latent variable models".
    """

    num_samples: PositiveInt = 16

    direction = "lower"
    gradient = "decoder"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the estimate for each example.

        Raises:
            ValueError: The draws have no `noise`, from which T is drawn.
        """
        if draws.noise is None:
            raise ValueError("these draws have no noise, and SUMO draws the number of terms")
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
