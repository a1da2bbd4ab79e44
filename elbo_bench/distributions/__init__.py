"""Posteriors, priors and likelihoods as `torch.distributions`, where torch has none.

Posteriors have a method `transport(noise) -> z` that maps standard normal noise to samples, so the caller can draw the
noise. A likelihood is a distribution of an array of independent values; the array is one event. Arguments are not
validated: NaN and infinity must reach the loss, which stops the run and names the step and the example.
"""

from elbo_bench.distributions.bernoulli_array import BernoulliArray
from elbo_bench.distributions.categorical_array import CategoricalArray
from elbo_bench.distributions.continuous_bernoulli_array import ContinuousBernoulliArray, continuous_bernoulli_mean
from elbo_bench.distributions.diagonal_normal import LOG_2_PI, DiagonalNormal, standard_normal
from elbo_bench.distributions.discretised_logistic_array import DiscretisedLogisticArray
from elbo_bench.distributions.discretised_logistic_mixture_array import DiscretisedLogisticMixtureArray
from elbo_bench.distributions.full_normal import FullNormal
from elbo_bench.distributions.low_rank_normal import LowRankNormal
from elbo_bench.distributions.normal_array import NormalArray

__all__ = [
    "LOG_2_PI",
    "BernoulliArray",
    "CategoricalArray",
    "ContinuousBernoulliArray",
    "DiagonalNormal",
    "DiscretisedLogisticArray",
    "DiscretisedLogisticMixtureArray",
    "FullNormal",
    "LowRankNormal",
    "NormalArray",
    "continuous_bernoulli_mean",
    "standard_normal",
]
