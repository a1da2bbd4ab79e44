"""The importance-weighted bound with its bias removed to some order."""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp, log_sum_exp_of_others, without_each
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jackknife(Objective):
    r"""Jackknife of the importance-weighted bound, in nats: JVI.

    .. math:: K L_K - (K - 1) \bar L_{K-1} \quad (m = 1), \qquad
        \tfrac{K^2}2 L_K - (K - 1)^2 \bar L_{K-1} + \tfrac{(K - 2)^2}2 \bar L_{K-2} \quad (m = 2)

    where the bars are means over all subsets of so many samples. Order m removes the bias of log p(x) up to K^-m;
    what is left has either sign, so it is no bound (Nowozin, 2018, "Debiasing evidence approximations: on
    importance-weighted autoencoders and jackknife variational inference").

    Attributes:
        order: m; 0 is L_K itself.
    """

    num_samples: PositiveInt = 5
    order: Annotated[int, Field(ge=0, le=2)] = 1

    of_log_w: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples <= self.order:
            raise ValueError(f"num_samples={self.num_samples} must be more than order={self.order}")

    @property
    def direction(self) -> Literal["lower", "none"]:
        """None; of order 0 a lower bound."""
        return "lower" if self.order == 0 else "none"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the estimate for each example."""
        log_w, size = draws.log_w, len(draws.log_w)
        whole = log_mean_exp(log_w)
        if self.order == 0:
            return whole
        without_one = log_sum_exp_of_others(log_w).mean(0) - math.log(size - 1)
        if self.order == 1:
            return size * whole - (size - 1) * without_one
        rest = torch.stack(list(without_each(log_w)), 1)
        without_two = log_sum_exp_of_others(rest).mean((0, 1)) - math.log(size - 2)
        return size**2 / 2 * whole - (size - 1) ** 2 * without_one + (size - 2) ** 2 / 2 * without_two
