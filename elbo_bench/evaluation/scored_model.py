"""A model as evaluators use it: with a prior that is computed once."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import LatentVariableModel


@dataclasses.dataclass(frozen=True)
class FixedPrior:
    """A model whose prior is computed once. A VampPrior otherwise encodes its pseudo-inputs at every call."""

    model: LatentVariableModel
    fixed: Distribution

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x)."""
        return self.model.posterior(x)

    def prior(self) -> Distribution:
        """Return p(z)."""
        return self.fixed

    def likelihood(self, z: Tensor) -> Any:
        """Return p(x|z): any object with `log_prob`."""
        return self.model.likelihood(z)


def log_joint(
    model: LatentVariableModel, x: Shaped[Tensor, "B *data"], z: Shaped[Tensor, "K B *event"], dtype: torch.dtype
) -> Float[Tensor, "K B"]:
    """Return log p(x, z) in nats, its two terms added in `dtype`."""
    return model.likelihood(z).log_prob(x).to(dtype) + model.prior().log_prob(z).to(dtype)


@dataclasses.dataclass(frozen=True)
class EncodedBlock:
    """A block of B examples with its distributions.

    Attributes:
        model: The model.
        x: The examples.
        posterior: The encoder's q(z|x).
        prior: p(z).
    """

    model: LatentVariableModel
    x: Shaped[Tensor, "B *data"]
    posterior: Distribution
    prior: Distribution

    def log_joint(self, z: Shaped[Tensor, "K B *event"], chunk_size: int) -> Float[Tensor, "K B"]:
        """Return log p(x, z) in nats, decoded in chunks, in float64."""
        return torch.cat([log_joint(self.model, self.x, part, torch.float64) for part in z.split(chunk_size)])


def is_discrete(distribution: Distribution) -> bool:
    """Return whether a distribution says that its support is discrete."""
    try:
        return bool(getattr(distribution.support, "is_discrete", False))
    except (NotImplementedError, AttributeError):
        return False
