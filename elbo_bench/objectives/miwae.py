"""The mean of independent importance-weighted bounds."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIWAE(Objective):
    r"""Mean of M importance-weighted bounds of K samples each, in nats.

    .. math:: \frac1M \sum_{m=1}^M L_K^{(m)}

    As tight as L_K, with an encoder gradient whose signal-to-noise ratio is sqrt(M) times higher (Rainforth et al.,
    2018, "Tighter variational bounds are not necessarily better").

    Attributes:
        num_samples: Samples of one bound, K.
        num_estimates: Bounds that are averaged, M.
    """

    num_samples: PositiveInt = 8
    num_estimates: PositiveInt = 8

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
        return log_mean_exp(in_groups(draws.log_w, self.num_estimates, self.num_samples)).mean(0)


def in_groups(log_w: Float[Tensor, "S B"], num_estimates: int, num_samples: int) -> Float[Tensor, "K M B"]:
    """Return M groups of K samples, sample by sample; a group's samples are neighbours in what is given.

    Raises:
        ValueError: There are not M * K samples.
    """
    if len(log_w) != num_estimates * num_samples:
        raise ValueError(f"{num_estimates} groups of {num_samples} samples cannot be made of {len(log_w)}")
    grouped: Tensor = log_w.unflatten(0, (num_estimates, num_samples))
    return grouped.transpose(0, 1)
