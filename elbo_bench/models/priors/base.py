"""The interface of a prior: its configuration, and the module that returns p(z)."""

import abc
import dataclasses

from torch import nn

from elbo_bench.config.typed import CheckedFields
from elbo_bench.data_info import DataInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior(CheckedFields, abc.ABC):
    """A prior. Its fields are its configuration."""

    @abc.abstractmethod
    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:
        """Return a module that maps the model's encoder, `x -> q(z|x)`, to p(z): no batch, event `[latent_dim]`.

        The encoder is an argument of `forward` and not a submodule, so that its parameters are not listed twice. Most
        priors ignore it.
        """
