"""The interface of a posterior family: its configuration, and the head that maps encoder features to q(z|x)."""

import abc
import dataclasses

from torch import nn

from elbo_bench.config.typed import CheckedFields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior(CheckedFields, abc.ABC):
    """A family of q(z|x). Its fields are its configuration."""

    @abc.abstractmethod
    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return a module that maps features `[B, num_features]` to q(z|x): batch `[B]`, event `[latent_dim]`."""
