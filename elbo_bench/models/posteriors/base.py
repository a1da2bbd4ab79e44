"""What a family of posteriors is: its keys, and the head that turns an encoder's features into q(z|x)."""

import abc
import dataclasses

from torch import nn

from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posterior(abc.ABC):
    """A family of posteriors; its fields are its configuration."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def head(self, num_features: int, latent_dim: int) -> nn.Module:
        """Return a module that maps features `[B, num_features]` to q(z|x): batch `[B]`, event `[latent_dim]`."""
