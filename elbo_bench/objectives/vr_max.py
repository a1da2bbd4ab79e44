"""The largest log-weight."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class VRMax(Objective):
    r"""Largest of K log-weights, in nats.

    .. math:: \max_k \log w_k

    The Rényi bound as alpha goes to minus infinity, trained by its one sample alone. It can exceed log p(x), and
    does so more, the larger K is (Li & Turner, 2016, "Rényi divergence variational inference").
    """

    num_samples: PositiveInt = 5

    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["none"]:
        """None: it can lie above log p(x)."""
        return "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the largest log-weight for each example."""
        return draws.log_w.amax(0)
