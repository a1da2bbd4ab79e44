"""Proposals: distributions to draw latents from where the encoder's q(z|x) is too narrow or misplaced."""

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal, constraints

from elbo_bench.distributions import DiagonalNormal, FullNormal
from elbo_bench.draws import sample
from elbo_bench.evaluation.evaluator import UnsuitableModelError
from elbo_bench.evaluation.importance_sampling.keys import ImportanceKeys
from elbo_bench.evaluation.importance_sampling.refine import Refined
from elbo_bench.noise import NoiseStream

Name = Literal["encoder", "widened", "mixture", "refined"]
NAMES: tuple[Name, ...] = ("encoder", "widened", "mixture", "refined")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A mixture of distributions of the latent for each of B examples.

    Attributes:
        parts: Its components, each with the batch `[B]`, or with none: the same for all examples.
        log_shares: Logarithms of the components' shares, by example or the same for all; -inf is no share.
    """

    parts: tuple[Distribution, ...]
    log_shares: Float[Tensor, "C #B"]

    def draw(
        self, num_samples: int, stream: NoiseStream, like: Shaped[Tensor, "B *data"]
    ) -> Shaped[Tensor, "K B *event"]:
        """Return K independent samples for each example, with the dtype and device of `like`."""
        if len(self.parts) == 1:
            return self._from(0, num_samples, stream, like)
        size = (num_samples, len(like))
        level = stream.uniform(size, device=like.device).double()
        shares = self.log_shares.to(like.device).exp()
        chosen = (level > shares.cumsum(0)[:-1, None]).sum(0)
        if all(hasattr(part, "transport") for part in self.parts):
            # A sample comes from one component, so all components can use the same normal numbers.
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
        return torch.logsumexp(densities + self.log_shares[:, None].to(z.device), 0)


def proposal_of(
    name: Name, keys: ImportanceKeys, posterior: Distribution, prior: Distribution, *, fit: Refined | None
) -> Proposal:
    """Return a proposal for the examples of a posterior.

    Args:
        name: Which proposal.
        keys: How wide it is and how much of the prior it holds.
        posterior: The encoder's q(z|x).
        prior: p(z).
        fit: Distributions fitted to the same examples, for `refined`.

    Raises:
        UnsuitableModelError: There is no such proposal for this posterior.
    """
    if name == "encoder":
        return mixture((posterior, 1.0))
    if name == "refined":
        if fit is None:
            raise UnsuitableModelError("proposal=refined: nothing was fitted")
        num_dims = fit.loc.shape[-1]
        # Normal distributions have light tails, so the fit is widened: less in many dimensions, where that is costly.
        parts = fit.parts(1 + 0.7 / math.sqrt(num_dims))
        # Samples of the prior bound the weights, and in few dimensions find mass that no start led to.
        share = 1 / (2 + num_dims / 2)
        shares = fit.log_shares + math.log(1 - share)
        last = torch.full_like(shares[:1], math.log(share))
        return Proposal((*parts, prior), torch.cat([shares, last]))
    wide = widen(posterior, widening_of(keys, posterior))
    if name == "widened":
        if wide is None:
            raise UnsuitableModelError(
                "proposal=widened: q(z|x) is no distribution of real vectors with a mean and a scale"
            )
        return mixture((wide, 1.0))
    around = posterior if wide is None else wide
    return mixture((around, 1 - keys.prior_share), (prior, keys.prior_share))


def mixture(*shares: tuple[Distribution, float]) -> Proposal:
    """Return a mixture with the same shares for every example."""
    column = torch.tensor([[math.log(share)] for _, share in shares], dtype=torch.float64)
    return Proposal(tuple(part for part, _ in shares), column)


def widening_of(keys: ImportanceKeys, posterior: Distribution) -> float:
    """Return the scale of a widened proposal over that of q; by default 3 for two dimensions and 1.4 for fifty.

    The variance of the log-weights of a wider proposal grows with the number of dimensions, so the default falls with
    its square root.
    """
    num_dims = int(posterior.event_shape.numel())
    return 1 + 2 * math.sqrt(2 / max(num_dims, 2)) if keys.widening is None else keys.widening


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
    normal = isinstance(getattr(posterior, "base_dist", None), Normal)  # NaN is then an error of the encoder
    exists = normal or bool((mean.isfinite() & scale.isfinite()).all())  # heavy tails may have neither
    return DiagonalNormal(mean, scale) if exists else None
