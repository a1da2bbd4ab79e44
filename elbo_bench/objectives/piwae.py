"""One bound for the decoder, the mean of looser ones for the encoder."""

import dataclasses
import math
from typing import ClassVar, Literal

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
    r"""Importance-weighted bound of M K samples whose encoder ascends the mean of M bounds of K, in nats.

    .. math:: L_{MK}, \qquad \nabla_\phi: \nabla_\phi \frac1M \sum_{m=1}^M L_K^{(m)}

    The decoder gets the tighter bound, the encoder the gradient with more signal (Rainforth et al., 2018, "Tighter
    variational bounds are not necessarily better").

    Attributes:
        num_samples: Samples of one of the encoder's bounds, K.
        num_estimates: The encoder's bounds, M.
    """

    num_samples: PositiveInt = 8
    num_estimates: PositiveInt = 8

    gradient: ClassVar[Literal["decoder"]] = "decoder"
    of_log_w: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    @property
    def samples_required(self) -> int:
        """M * K."""
        return self.num_estimates * self.num_samples

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        log_w = draws.log_w
        grouped = in_groups(log_w, self.num_estimates, self.num_samples)
        # The encoder's weight is this over the decoder's, times the decoder's: the latter must not round to zero.
        decoder = torch.where(log_w > -math.inf, log_w.softmax(0).clamp(min=_SMALLEST), 0.0)
        encoder = (grouped.softmax(0) / self.num_estimates).transpose(0, 1).flatten(0, 1)
        path = torch.where(decoder > 0, encoder / decoder, 0.0)
        return estimator(log_mean_exp(log_w), draws, decoder=decoder, path=path, score=-encoder)


_SMALLEST = 1e-20
"""A decoder's weight that is as good as none, and far from what float32 cannot hold."""
