"""Distributions to draw latents from in place of the encoder's q(z|x), which may be too narrow, or elsewhere."""

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal, constraints

from elbo_bench.distributions import DiagonalNormal, FullNormal
from elbo_bench.draws import sample
from elbo_bench.noise import NoiseStream

Name = Literal["encoder", "widened", "mixture", "refined"]
NAMES: tuple[Name, ...] = ("encoder", "widened", "mixture", "refined")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A mixture of distributions of the latent for each of B examples.

    Attributes:
        parts: Its components, each with the batch `[B]`, or with none: the same for all examples.
        log_shares: Logarithms of what each example draws from each; -inf is nothing.
    """

    parts: tuple[Distribution, ...]
    log_shares: Float[Tensor, "C B"]

    def draw(
        self, num_samples: int, stream: NoiseStream, like: Shaped[Tensor, "B *data"]
    ) -> Shaped[Tensor, "K B *event"]:
        """Return K independent samples for each example, with the dtype and device of `like`."""
        if len(self.parts) == 1:
            return self._from(0, num_samples, stream, like)
        size = (num_samples, len(like))
        level = stream.uniform(size, device=like.device).double()
        chosen = (level > self.log_shares.exp().cumsum(0)[:-1, None]).sum(0)
        if all(hasattr(part, "transport") for part in self.parts):
            # One set of normal numbers serves all components, as a sample comes from one of them.
            event = self.parts[0].event_shape
            noise = stream.normal((*size, *event), dtype=like.dtype, device=like.device)
            drawn = [part.transport(noise).to(like.dtype) for part in self.parts]  # type: ignore[attr-defined]
        else:
            drawn = [self._from(index, num_samples, stream, like) for index in range(len(self.parts))]
        z: Tensor = drawn[0]
        for index, other in enumerate(drawn[1:], 1):
            z = torch.where((chosen == index).reshape(*size, *[1] * (z.dim() - 2)), other, z)
        return z

    def _from(self, index: int, num_samples: int, stream: NoiseStream, like: Tensor) -> Tensor:
        part = self.parts[index]
        if not part.batch_shape:
            flat = sample(part, num_samples * len(like), stream, like=like, reparameterised=False)
            shared: Tensor = flat.unflatten(0, (num_samples, len(like)))
            return shared
        return sample(part, num_samples, stream, like=like, reparameterised=False)

    def log_prob(self, z: Shaped[Tensor, "K B *event"]) -> Float[Tensor, "K B"]:
        """Return the log-density of the mixture in nats, in float64."""
        if len(self.parts) == 1:
            return self.parts[0].log_prob(z).double()
        densities = torch.stack([part.log_prob(z).double() for part in self.parts])
        return torch.logsumexp(densities + self.log_shares[:, None], 0)


def of(*shares: tuple[Distribution, float], num_examples: int, device: torch.device | None = None) -> Proposal:
    """Return a mixture with the same shares for every example."""
    column = torch.tensor([math.log(share) for _, share in shares], dtype=torch.float64, device=device)
    return Proposal(tuple(part for part, _ in shares), column[:, None].expand(-1, num_examples))


def widen(posterior: Distribution, factor: float) -> DiagonalNormal | FullNormal | None:
    """Return a normal distribution around the same mean with a scale `factor` times as large.

    A posterior that is not normal is replaced by one with its mean and its standard deviations; None if it has none.
    """
    if isinstance(posterior, MultivariateNormal):
        return FullNormal(posterior.loc, posterior.scale_tril * factor)
    try:
        support = posterior.support
        if len(posterior.event_shape) != 1 or getattr(support, "base_constraint", support) is not constraints.real:
            return None
        mean, scale = posterior.mean, posterior.stddev * factor
    except (NotImplementedError, AttributeError):
        return None
    normal = isinstance(getattr(posterior, "base_dist", None), Normal)  # its NaN is the encoder's, and must be seen
    exists = normal or bool((mean.isfinite() & scale.isfinite()).all())  # a heavy tail may have neither
    return DiagonalNormal(mean, scale) if exists else None


def default_widening(num_dims: int) -> float:
    """Return how much wider than q a proposal of `num_dims` dimensions should be: 3 for two, 1.4 for fifty.

    The log-weights of a proposal that is wider by a factor have a variance that grows with the number of dimensions:
    what is affordable shrinks with its root.
    """
    return 1 + 2 * math.sqrt(2 / max(num_dims, 2))
