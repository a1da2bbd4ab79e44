"""Bernoulli likelihood, for binary data."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.data_info import DataInfo
from elbo_bench.distributions import BernoulliArray
from elbo_bench.models.likelihoods.base import Likelihood, LikelihoodModule
from elbo_bench.models.likelihoods.kinds import refuse_unless_binary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bernoulli(Likelihood):
    """Independent Bernoulli values. The decoder returns log-odds.

    At initialisation the probability is the training mean, clipped to [.001, .999] as in the authors' code of
    Burda et al., 2016, "Importance weighted autoencoders".
    """

    def module(self, info: DataInfo) -> "BernoulliModule":
        """Return the module for the data.

        Raises:
            ValueError: The data are not binary.
        """
        refuse_unless_binary("a Bernoulli", info)
        return BernoulliModule(info)


class BernoulliModule(LikelihoodModule):
    """Maps log-odds to p(x|z)."""

    num_outputs = 1

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.event_dims = len(info.shape)
        self.bias = torch.logit(info.train_mean.clamp(0.001, 0.999)).unsqueeze(-1)

    def forward(self, parameters: Float[Tensor, "*lead 1"]) -> BernoulliArray:
        """Return p(x|z)."""
        return BernoulliArray(parameters.squeeze(-1), event_dims=self.event_dims)
