"""Jackknife variational inference (JVI): the importance-weighted bound with reduced bias."""

import dataclasses
import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp, log_sum_exp_of_others, without_each
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jackknife(Objective):
    r"""Importance-weighted bound with its bias reduced by the jackknife of order m, in nats.

    .. math:: K L_K - (K - 1) \bar L_{K-1} \quad (m = 1), \qquad
        \tfrac{K^2}2 L_K - (K - 1)^2 \bar L_{K-1} + \tfrac{(K - 2)^2}2 \bar L_{K-2} \quad (m = 2)

    The bar is the mean over all subsets of that many samples. Order m removes the bias for log p(x) up to the order
    K^-m. The remaining bias may have either sign, so the value is no bound for m > 0.

    Source: Nowozin, 2018, "Debiasing evidence approximations: on importance-weighted autoencoders and jackknife
    variational inference".

    Attributes:
        order: Order m. Order 0 is L_K.
    """

    num_samples: PositiveInt = 5
    order: Annotated[int, Field(ge=0, le=2)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples <= self.order:
            raise ValueError(f"num_samples={self.num_samples} must be more than order={self.order}")

    @property
    def direction(self) -> Literal["lower", "none"]:
        """A lower bound for order 0, otherwise no bound."""
        return "lower" if self.order == 0 else "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the estimate for each example."""
        log_w, size = draws.log_w, len(draws.log_w)
        bound = log_mean_exp(log_w)
        if self.order == 0:
            return bound
        without_one = log_sum_exp_of_others(log_w).mean(0) - math.log(size - 1)
        if self.order == 1:
            return size * bound - (size - 1) * without_one
        rest = torch.stack(list(without_each(log_w)), 1)
        without_two = log_sum_exp_of_others(rest).mean((0, 1)) - math.log(size - 2)
        return size**2 / 2 * bound - (size - 1) ** 2 * without_one + (size - 2) ** 2 / 2 * without_two
