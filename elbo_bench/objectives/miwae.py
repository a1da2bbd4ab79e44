"""The mean of several importance-weighted bounds."""

import dataclasses

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

    A lower bound on log p(x) in expectation, as tight as L_K. The signal-to-noise ratio of the encoder gradient is
    sqrt(M) times that of L_K.

    Source: Rainforth et al., 2018, "Tighter variational bounds are not necessarily better".

    Attributes:
        num_samples: Samples of one bound, K.
        num_estimates: Number of bounds, M.
    """

    num_samples: PositiveInt = 8
    num_estimates: PositiveInt = 8

    direction = "lower"

    @property
    def samples_required(self) -> int:
        """M * K."""
        return self.num_estimates * self.num_samples

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return log_mean_exp(in_groups(draws.log_w, self.num_estimates, self.num_samples)).mean(0)


def in_groups(log_w: Float[Tensor, "S B"], num_estimates: int, num_samples: int) -> Float[Tensor, "K M B"]:
    """Return the log-weights in M groups of K consecutive samples.

    Raises:
        ValueError: The number of samples is not M * K.
    """
    if len(log_w) != num_estimates * num_samples:
        needed = num_estimates * num_samples
        raise ValueError(f"{num_estimates} groups of {num_samples} samples need {needed} samples, not {len(log_w)}")
    grouped: Tensor = log_w.unflatten(0, (num_estimates, num_samples))
    return grouped.transpose(0, 1)
