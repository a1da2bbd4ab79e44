"""The importance-weighted bound, trained without the score of q: biased for more than one sample."""

import dataclasses
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class IWAESTL(Objective):
    r"""Importance-weighted bound whose encoder gradient lacks the score term, in nats.

    .. math:: L_K, \qquad \nabla_\phi: \sum_k \tilde w_k \, (\nabla_\phi z_k)' \nabla_z \log w_k

    For K > 1 the score that is left out has no expectation of zero: this is not the gradient of E[L_K] (Tucker et al.,
    2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives"). It differs from DReG, which is, by
    exactly the encoder gradient of RWS-DReG. Here to be measured, and for those who wish to reproduce it.
    """

    num_samples: PositiveInt = 5

    gradient: ClassVar[Literal["decoder"]] = "decoder"
    of_log_w: ClassVar[bool] = True

    @property
    def direction(self) -> Literal["lower"]:
        """A lower bound."""
        return "lower"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the bound for each example."""
        return estimator(log_mean_exp(draws.log_w), draws, decoder=draws.log_w.softmax(0))
