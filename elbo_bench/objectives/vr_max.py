"""VR-max: the largest log-weight."""

import dataclasses

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class VRMax(Objective):
    r"""Largest of K log-weights, in nats.

    .. math:: \max_k \log w_k

    The limit of the Rényi bound as alpha goes to minus infinity. Only the sample with the largest weight is trained.
    The value can exceed log p(x), by more as K grows, so it is no bound.

    Source: Li & Turner, 2016, "Rényi divergence variational inference".
    """

    num_samples: PositiveInt = 5

    direction = "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the largest log-weight for each example."""
        return draws.log_w.amax(0)
