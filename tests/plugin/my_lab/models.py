"""A logistic factor analyser, made of torch's own layers and distributions."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal

from elbo_bench.data_info import DataInfo


class LogisticFactors(nn.Module):
    """Binary x given a normal z through one linear layer, with a linear encoder."""

    def __init__(self, info: DataInfo, num_factors: Annotated[int, Field(ge=1, le=1000)] = 3) -> None:
        super().__init__()
        if info.num_levels != 2:
            raise ValueError("logistic factors need binary data")
        self.shape = info.shape
        self.encoder = nn.Linear(info.num_dims, 2 * num_factors)
        self.decoder = nn.Linear(num_factors, info.num_dims)

    def posterior(self, x: Tensor) -> Independent:
        """Return q(z|x)."""
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        return Independent(Normal(loc, log_scale.exp()), 1)

    def prior(self) -> Independent:
        """Return p(z)."""
        loc = self.decoder.weight.new_zeros(self.decoder.in_features)
        return Independent(Normal(loc, torch.ones_like(loc)), 1)

    def likelihood(self, z: Tensor) -> Independent:
        """Return p(x|z)."""
        logits = self.decoder(z).unflatten(-1, self.shape)
        return Independent(Bernoulli(logits=logits), len(self.shape))
