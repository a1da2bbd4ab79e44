"""The contract between models and objectives: samples of the latent, and every log-density at them.

A model knows nothing of bounds and an objective sees no network: they meet in `Draws`.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from elbo_bench.noise import NormalSource


@runtime_checkable
class LatentVariableModel(Protocol):
    """What a model is: p(z), p(x|z) and an encoder's q(z|x); nothing about bounds."""

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x) for `x` `[B, *data]`: batch `[B]`, event the whole latent."""
        ...

    def prior(self) -> Distribution:
        """Return p(z): no batch, event the whole latent."""
        ...

    def likelihood(self, z: Tensor) -> Distribution:
        """Return p(x|z) for `z` `[*lead, *latent]`: batch `[*lead]`, event one example."""
        ...


class NoClosedFormError(NotImplementedError):
    """A divergence has no closed form for a pair of distributions; Monte Carlo is never put in its place."""


class NotReparameterisableError(TypeError):
    """A gradient through the samples was asked of a distribution that has none."""


@dataclasses.dataclass(frozen=True)
class Draws:
    """K samples of q(z|x) for each of B examples, and the three log-densities at them, in nats.

    The first four are enough for any bound of log-weights; a model that has no distribution to show leaves out the
    other two.
    """

    z: Shaped[Tensor, "K B *event"]
    log_p_x_given_z: Float[Tensor, "K B"]
    log_p_z: Float[Tensor, "K B"]
    log_q_z_given_x: Float[Tensor, "K B"]
    posterior: Distribution | None = None
    prior: Distribution | None = None

    @functools.cached_property
    def log_w(self) -> Float[Tensor, "K B"]:
        """Log importance weights, log p(x,z) - log q(z|x), in nats."""
        return self.log_p_x_given_z + self.log_p_z - self.log_q_z_given_x

    @functools.cached_property
    def path_log_w(self) -> Float[Tensor, "K B"]:
        """Log-weights of the same value whose gradient lacks the score term of q (Roeder et al., 2017).

        Raises:
            NoClosedFormError: The draws do not say what q is.
        """
        if self.posterior is None:
            raise NoClosedFormError("these draws do not say what q(z|x) is")
        score = self.posterior.log_prob(self.z.detach())
        return self.log_w + (score - score.detach())

    def analytic_kl(self) -> Float[Tensor, " B"]:
        """Return the rate KL(q(z|x) ‖ p(z)) in nats.

        Raises:
            NoClosedFormError: The pair of distributions has none.
        """
        if self.posterior is None or self.prior is None:
            raise NoClosedFormError("these draws do not say what q(z|x) and p(z) are")
        return closed_form_kl(self.posterior, self.prior)

    def analytic_kl_per_dim(self) -> Float[Tensor, "B D"]:
        """Return KL(q(z_j|x) ‖ p(z_j)) for each dimension j, in nats.

        Raises:
            NoClosedFormError: A dimension of the posterior or of the prior is not independent of the others.
        """
        q, p = self.posterior, self.prior
        if not (isinstance(q, Independent) and isinstance(p, Independent)) or {
            q.reinterpreted_batch_ndims,
            p.reinterpreted_batch_ndims,
        } != {1}:
            raise NoClosedFormError(f"no KL by dimension between {_name(q)} and {_name(p)}")
        return closed_form_kl(q.base_dist, p.base_dist)

    def posterior_entropy(self) -> Float[Tensor, " B"]:
        """Return the entropy H[q(z|x)] in nats.

        Raises:
            NoClosedFormError: The posterior has none.
        """
        if self.posterior is None:
            raise NoClosedFormError("these draws do not say what q(z|x) is")
        try:
            return self.posterior.entropy()
        except NotImplementedError:
            raise NoClosedFormError(f"the entropy of {_name(self.posterior)} has no closed form") from None

    def samples(self, start: int, stop: int) -> "Draws":
        """Return the draws of samples `start` to `stop`, views of these."""
        part: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in _PER_SAMPLE}
        return dataclasses.replace(self, **part)


_PER_SAMPLE = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")


def concatenate(pieces: Sequence[Draws]) -> Draws:
    """Return draws of one posterior, joined along the axis of samples."""
    joined: dict[str, Any] = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _PER_SAMPLE}
    return dataclasses.replace(pieces[0], **joined)


def draw(
    model: LatentVariableModel,
    x: Float[Tensor, "B *data"],
    num_samples: int,
    noise: NormalSource,
    *,
    reparameterised: bool = True,
) -> Draws:
    """Draw `num_samples` latents for each example and score them: the only sampler of the project.

    Args:
        model: The model.
        x: Observations.
        num_samples: K.
        noise: Where the random numbers come from.
        reparameterised: Whether gradients flow through the samples.

    Raises:
        NotReparameterisableError: They should, and the posterior's samples have no gradient.
    """
    return draw_from(model, model.posterior(x), x, num_samples, noise, reparameterised=reparameterised)


def draw_from(
    model: LatentVariableModel,
    posterior: Distribution,
    x: Float[Tensor, "B *data"],
    num_samples: int,
    noise: NormalSource,
    *,
    reparameterised: bool = True,
) -> Draws:
    """Draw from a posterior that is already there: encode once, decode as often as needed."""
    z = sample(posterior, num_samples, noise, like=x, reparameterised=reparameterised)
    return score(model, posterior, x, z)


def score(
    model: LatentVariableModel, posterior: Distribution, x: Float[Tensor, "B *data"], z: Shaped[Tensor, "K B *event"]
) -> Draws:
    """Score given latents, wherever they come from, under a proposal, the prior and the likelihood."""
    z = z.view_as(z)  # a node of its own: a hook on it scales the whole gradient that flows through z
    prior = model.prior()
    return Draws(
        z=z,
        log_p_x_given_z=model.likelihood(z).log_prob(x),
        log_p_z=prior.log_prob(z),
        log_q_z_given_x=posterior.log_prob(z),
        posterior=posterior,
        prior=prior,
    )


# torch's generator is global: evaluation draws from several threads.
_TORCH_GENERATOR = threading.Lock()


def sample(
    posterior: Distribution, num_samples: int, noise: NormalSource, *, like: Tensor, reparameterised: bool = True
) -> Shaped[Tensor, "K *rest"]:
    """Return K samples of a posterior, made from `noise` alone, with the dtype and device of `like`.

    Raises:
        NotReparameterisableError: A gradient is asked for and the distribution has none.
    """
    if hasattr(posterior, "transport"):
        shape = (num_samples, *posterior.batch_shape, *posterior.event_shape)
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        z: Tensor = posterior.transport(noise.normal(shape, dtype=dtype, device=like.device))
    elif posterior.has_rsample or not reparameterised:
        with _TORCH_GENERATOR, torch.random.fork_rng([like.device] if like.is_cuda else []):
            torch.manual_seed(noise.torch_seed())
            size = torch.Size([num_samples])
            z = posterior.rsample(size) if reparameterised else posterior.sample(size)
    else:
        raise NotReparameterisableError(f"samples of {_name(posterior)} carry no gradient")
    return z if reparameterised else z.detach()


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p) in nats.

    Raises:
        NoClosedFormError: The pair of distributions has none; the line names the pair.
    """
    try:
        # torch's KL of some families, Bernoulli's for one, does not broadcast.
        return kl_divergence(
            q, p.expand(q.batch_shape) if p.batch_shape != q.batch_shape and not hasattr(p, "transport") else p
        )
    except NotImplementedError:
        raise NoClosedFormError(f"KL between {_name(q)} and {_name(p)} has no closed form") from None


def _name(distribution: Distribution | None) -> str:
    if isinstance(distribution, Independent) and type(distribution) is Independent:
        return f"Independent {_name(distribution.base_dist)}"
    return type(distribution).__name__
