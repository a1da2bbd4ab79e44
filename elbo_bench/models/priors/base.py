"""What a prior is: its keys, and the module that gives p(z)."""

import abc
import dataclasses

from torch import nn

from elbo_bench.data_info import DataInfo
from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior(abc.ABC):
    """A prior; its fields are its configuration."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def module(self, latent_dim: int, info: DataInfo) -> nn.Module:
        """Return a module that maps the model's encoder, `x -> q(z|x)`, to p(z): no batch, event `[latent_dim]`.

        The encoder is an argument of `forward`, not a part of the module: most priors have no use for it, and no
        parameter belongs to two.
        """
