"""Continuous Bernoulli likelihood, for continuous data in [0, 1]."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import ContinuousBernoulliArray, continuous_bernoulli_mean
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.bisection import solve_increasing
from elbo_bench.models.likelihoods.kinds import refuse_unless_continuous


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinuousBernoulli(Likelihood):
    """Independent continuous Bernoulli values. The decoder returns natural parameters.

    At initialisation the mean is the training mean, clipped to [.01, .99]. The parameters are then between -100 and
    100.

    Source: Loaiza-Ganem & Cunningham, 2019, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders".
    """

    def module(self, info: DataInfo) -> "ContinuousBernoulliModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are discrete, or not in [0, 1].
        """
        refuse_unless_continuous("a continuous Bernoulli", info)
        if info.bounds is None or not 0 <= info.bounds[0] <= info.bounds[1] <= 1:
            where = "may be any real number" if info.bounds is None else f"lies in {list(info.bounds)}"
            raise ValueError(
                f"a continuous Bernoulli likelihood needs values in [0, 1], and this data {where}: take gaussian"
            )
        return ContinuousBernoulliModule(info)


class ContinuousBernoulliModule(LikelihoodModule):
    """Maps natural parameters to p(x|z)."""

    num_outputs = 1

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.event_dims = len(info.shape)
        mean = info.train_mean.double().clamp(0.01, 0.99)
        natural = solve_increasing(continuous_bernoulli_mean, mean, -110.0, 110.0)
        self.bias = natural.to(info.train_mean.dtype).unsqueeze(-1)

    def forward(self, parameters: Float[Tensor, "*lead 1"]) -> ContinuousBernoulliArray:
        """Return p(x|z)."""
        return ContinuousBernoulliArray(parameters.squeeze(-1), event_dims=self.event_dims)
