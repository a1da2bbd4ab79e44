"""Two layers of normal latents, the second given the first, as one distribution of both."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint, independent, real

from elbo_bench.distributions.diagonal_normal import DiagonalNormal


class ChainedNormal(Distribution):
    r"""Creates the joint distribution of a layer and of another one given it.

    .. math:: q(z) = q(z_a) \, q(z_b | z_a)

    Both layers lie side by side in z. Their joint mean, spread, entropy and divergences have no closed form, and none
    is made up. Samples are differentiable: the second layer moves with the first.

    Args:
        first: q(z_a), of batch `[*batch]`.
        second: Returns q(z_b|z_a) for `z_a` `[*lead, A]`, of batch `[*lead]`.
        num_second: Dimensions of z_b.
        order: Whether z is `[z_a, z_b]`, or `[z_b, z_a]` as in a prior, which begins at the top.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class
    support: Constraint = independent(real, 1)
    has_rsample = True

    def __init__(
        self,
        first: DiagonalNormal,
        second: Callable[[Float[Tensor, "*lead A"]], DiagonalNormal],
        num_second: int,
        order: Literal["first to last", "last to first"] = "first to last",
    ) -> None:
        self.first, self.second, self.order = first, second, order
        self._sizes = (int(first.event_shape[0]), num_second)
        super().__init__(first.batch_shape, torch.Size([sum(self._sizes)]), validate_args=False)

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return the first layer moved by its share of the noise, and the second, given that, by its own."""
        noise_first, noise_second = self._split(noise)
        first = self.first.transport(noise_first)
        return self._join(first, self.second(first).transport(noise_second))

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample2"]:
        """Return log q(z_a) + log q(z_b|z_a) in nats; samples without a batch axis of their own are every batch's."""
        first, second = self._split(value)
        shape = torch.broadcast_shapes(first.shape[:-1], self.batch_shape)
        return self.first.log_prob(first.expand(*shape, -1)) + self.second(first).log_prob(second)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return differentiable samples, by torch's global generator."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        like = self.first.base_dist.loc
        return self.transport(torch.randn(shape, dtype=like.dtype, device=like.device))

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return both layers, the one that the other depends on first."""
        if self.order == "first to last":
            first, second = value.split(self._sizes, dim=-1)
        else:
            second, first = value.split(self._sizes[::-1], dim=-1)
        return first, second

    def _join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second] if self.order == "first to last" else [second, first], dim=-1)
