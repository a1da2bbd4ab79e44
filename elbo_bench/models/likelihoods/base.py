"""What a likelihood is: its keys, the kind of data it is for, and the module that gives p(x|z)."""

import abc
import dataclasses

from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.typed import check_fields


class LikelihoodModule(nn.Module, abc.ABC):
    """Maps a decoder's outputs `[*lead, *shape, num_outputs]` to p(x|z): batch `[*lead]`, event `shape`.

    Attributes:
        num_outputs: Numbers that a decoder gives for each value of x.
        bias: Where a decoder's last bias begins, `[*shape, num_outputs]`: the likelihood that suits the training mean.
    """

    num_outputs: int
    bias: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood(abc.ABC):
    """A likelihood; its fields are its configuration."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def module(self, info: DataInfo) -> LikelihoodModule:
        """Return the module for the data.

        Raises:
            ValueError: The data is of another kind: a density of discrete data is no probability, and a Bernoulli of
                grey values is no likelihood.
        """
