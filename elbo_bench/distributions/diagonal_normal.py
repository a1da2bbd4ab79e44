"""The normal distribution with independent dimensions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

LOG_2_PI = math.log(2 * math.pi)


class DiagonalNormal(Independent):  # type: ignore[type-arg]
    """Creates a normal distribution with independent dimensions.

    Args:
        loc: Mean, `[*batch, D]`.
        scale: Standard deviation, `[*batch, D]`.
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], scale: Float[Tensor, "*batch D"]) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "DiagonalNormal":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape))

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return `loc + scale * noise`."""
        z: Tensor = self.base_dist.loc + self.base_dist.scale * noise
        return z

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*grid"]:
        """Return log N(value; loc, scale^2) in nats. Terms without `value` are computed once for each batch element."""
        loc, scale = self.base_dist.loc, self.base_dist.scale
        constant = scale.log().sum(-1) + 0.5 * LOG_2_PI * loc.shape[-1]
        log_p: Tensor = -0.5 * ((value - loc) / scale).square().sum(-1) - constant
        return log_p


def standard_normal(num_dims: int, like: Tensor) -> DiagonalNormal:
    """Return N(0, I) of `num_dims` dimensions, with the dtype and device of `like`."""
    return DiagonalNormal(like.new_zeros(num_dims), like.new_ones(num_dims))
