"""One importance-weighted bound for the decoder, and several smaller ones for the encoder."""

import dataclasses
import math

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator
from elbo_bench.objectives.miwae import in_groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class PIWAE(Objective):
    r"""Importance-weighted bound of M K samples whose encoder ascends the mean of M bounds of K samples, in nats.

    .. math:: L_{MK}, \qquad \nabla_\phi: \nabla_\phi \frac1M \sum_{m=1}^M L_K^{(m)}

    A lower bound on log p(x) in expectation. The decoder trains with the tighter bound. The encoder trains with the
    bound whose gradient has the higher signal-to-noise ratio.

    Source: Rainforth et al., 2018, "Tighter variational bounds are not necessarily better".

    Attributes:
        num_samples: Samples of one bound of the encoder, K.
        num_estimates: Number of bounds of the encoder, M.
    """

    num_samples: PositiveInt = 8
    num_estimates: PositiveInt = 8

    direction = "lower"
    gradient = "decoder"

    @property
    def samples_required(self) -> int:
        """M * K."""
        return self.num_estimates * self.num_samples

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        grouped = in_groups(log_w, self.num_estimates, self.num_samples)
        # The path factor is the encoder weight over the decoder weight, so the decoder weight must not be zero.
        decoder = torch.where(log_w > -math.inf, log_w.softmax(0).clamp(min=_SMALLEST), 0.0)
        encoder = (grouped.softmax(0) / self.num_estimates).transpose(0, 1).flatten(0, 1)
        path = torch.where(decoder > 0, encoder / decoder, 0.0)
        return estimator(log_mean_exp(log_w), draws, decoder=decoder, path=path, score=-encoder)


_SMALLEST = 1e-20
"""A negligible decoder weight that float32 can represent."""
