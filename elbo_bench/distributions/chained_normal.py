"""The joint distribution of two layers of normal latents."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.distributions.diagonal_normal import DiagonalNormal
from elbo_bench.distributions.transported_vector import TransportedVector


class ChainedNormal(TransportedVector):
    r"""Creates the joint distribution of a layer z_a and a second layer z_b that depends on z_a.

    .. math:: q(z) = q(z_a) \, q(z_b | z_a)

    z is the concatenation of both layers. Mean, variance, entropy and KL divergences have no closed form. Samples are
    differentiable, also through the dependence of z_b on z_a.

    Args:
        first: q(z_a), with batch `[*batch]`.
        second: Returns q(z_b|z_a) with batch `[*lead]` for `z_a` `[*lead, A]`.
        num_second: Number of dimensions of z_b.
        order: `"first to last"` if z is `[z_a, z_b]`. `"last to first"` if z is `[z_b, z_a]`, as in a prior, which
            draws the top layer first.
    """

    def __init__(
        self,
        first: DiagonalNormal,
        second: Callable[[Float[Tensor, "*lead A"]], DiagonalNormal],
        num_second: int,
        order: Literal["first to last", "last to first"] = "first to last",
    ) -> None:
        self.first, self.second, self.order = first, second, order
        self._sizes = (int(first.event_shape[0]), num_second)
        super().__init__(first.batch_shape, sum(self._sizes), like=first.base_dist.loc)

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return z for standard normal noise: first z_a, then z_b given z_a."""
        noise_first, noise_second = self._split(noise)
        first = self.first.transport(noise_first)
        return self._join(first, self.second(first).transport(noise_second))

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample2"]:
        """Return log q(z_a) + log q(z_b|z_a) in nats. `value` broadcasts to the batch."""
        first, second = self._split(value)
        shape = torch.broadcast_shapes(first.shape[:-1], self.batch_shape)
        return self.first.log_prob(first.expand(*shape, -1)) + self.second(first).log_prob(second)

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_a and z_b."""
        if self.order == "first to last":
            first, second = value.split(self._sizes, dim=-1)
        else:
            second, first = value.split(self._sizes[::-1], dim=-1)
        return first, second

    def _join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second] if self.order == "first to last" else [second, first], dim=-1)
