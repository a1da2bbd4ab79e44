"""The interface of a likelihood: its configuration, and the module that maps decoder outputs to p(x|z)."""

import abc
import dataclasses

from torch import Tensor, nn

from elbo_bench.config.typed import CheckedFields
from elbo_bench.data_info import DataInfo


class LikelihoodModule(nn.Module, abc.ABC):
    """Maps a decoder's outputs `[*lead, *shape, num_outputs]` to p(x|z): batch `[*lead]`, event `shape`.

    Attributes:
        num_outputs: Number of decoder outputs for each value of x.
        bias: Initial value of the decoder's last bias, `[*shape, num_outputs]`. It fits the training mean.
    """

    num_outputs: int
    bias: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(CheckedFields, abc.ABC):
    """A likelihood. Its fields are its configuration."""

    @abc.abstractmethod
    def module(self, info: DataInfo) -> LikelihoodModule:
        """Return the module for the data.

        Raises:
            ValueError: The likelihood is not defined for this kind of data.
        """
