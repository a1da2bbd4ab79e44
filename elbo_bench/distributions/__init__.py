"""Posteriors, priors and likelihoods as `torch.distributions`, with what torch lacks.

Posteriors here expose `transport(noise) -> z`, which turns standard normal noise into samples, so that noise can be
drawn outside and passed in. Likelihoods are arrays of independent values, the whole array one event. Arguments are not
validated: a number that is not finite must reach the loss, where it stops the run with its step and its example named,
and not be swallowed or raised from the depths.
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
