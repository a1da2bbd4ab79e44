"""The base class of distributions that map standard normal noise to real vectors."""

import abc

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, real_vector


class TransportedVector(Distribution, abc.ABC):
    """A distribution of real vectors with a map from standard normal noise to samples.

    Args:
        batch_shape: Shape of the batch.
        num_dims: Number of dimensions of a vector, D.
        like: A tensor with the dtype and device of the samples.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class
    support: Constraint = real_vector
    has_rsample = True

    def __init__(self, batch_shape: torch.Size, num_dims: int, like: Tensor) -> None:
        self._like = like
        super().__init__(batch_shape, torch.Size([num_dims]), validate_args=False)

    @abc.abstractmethod
    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return z for standard normal noise."""

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return differentiable samples from torch's global generator."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self.transport(torch.randn(shape, dtype=self._like.dtype, device=self._like.device))
