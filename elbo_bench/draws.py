"""The contract between models and objectives: samples of the latent and the log-densities at them.

A model does not depend on objectives, and an objective does not see a network. Both use `Draws` only.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from elbo_bench.latent_states import MOST_STATES, num_states, states
from elbo_bench.noise import NormalSource

RateForm = Literal["analytic", "mc"]
"""How to compute a rate: in closed form, or as the mean of log q(z|x) - log p(z) over the samples."""


@runtime_checkable
class LatentVariableModel(Protocol):
    """The interface of a model: p(z), p(x|z) and q(z|x)."""

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x) for `x` `[B, *data]`. Its batch is `[B]`; its event is the latent."""
        ...

    def prior(self) -> Distribution:
        """Return p(z). It has no batch; its event is the latent."""
        ...

    def likelihood(self, z: Tensor) -> Distribution:
        """Return p(x|z) for `z` `[*lead, *latent]`. Its batch is `[*lead]`; its event is one example."""
        ...


class NoClosedFormError(NotImplementedError):
    """A divergence or entropy has no closed form. It is never replaced by a Monte Carlo estimate silently."""


class NotReparameterisableError(TypeError):
    """A gradient through the samples is required, and the distribution has none."""


@runtime_checkable
class DrawRequirements(Protocol):
    """What the sampler must know about an objective. Every objective has these attributes."""

    @property
    def samples_required(self) -> int:
        """Number of samples for one value."""
        ...

    @property
    def reparameterised(self) -> bool:
        """Whether the gradient flows through the samples."""
        ...

    @property
    def latents(self) -> Literal["sampled", "enumerated"]:
        """Whether the objective takes samples of q(z|x) or every value of a discrete latent."""
        ...


@dataclasses.dataclass(frozen=True)
class Draws:
    """K samples of q(z|x) for each of B examples, and the three log-densities at them, in nats.

    The first four fields are enough for a function of the log-weights. `posterior` and `prior` are needed for closed
    forms. `noise` is for objectives that draw random numbers themselves; it is independent of the samples.

    Raises:
        ValueError: The log-densities do not have the shape `[K, B]` of the samples, or the batch of the posterior is
            not `[B]`. The usual reason is swapped axes.
    """

    z: Shaped[Tensor, "K B *event"]
    log_p_x_given_z: Float[Tensor, "K B"]
    log_p_z: Float[Tensor, "K B"]
    log_q_z_given_x: Float[Tensor, "K B"]
    posterior: Distribution | None = None
    prior: Distribution | None = None
    noise: NormalSource | None = None
    is_part: bool = False
    """Whether these draws are a slice or a concatenation of others, so that `scale_path` has no effect on `z`."""

    def __post_init__(self) -> None:
        lead = self.z.shape[:2]
        for name in ("log_p_x_given_z", "log_p_z", "log_q_z_given_x"):
            if (shape := getattr(self, name).shape) != lead:
                raise ValueError(f"{name} has the shape {tuple(shape)}, not [K, B] = {tuple(lead)}")
        if self.posterior is not None and (batch := self.posterior.batch_shape) not in (lead[1:], ()):
            raise ValueError(f"the posterior has the batch {tuple(batch)}, not [B] = {tuple(lead[1:])}")

    @functools.cached_property
    def log_w(self) -> Float[Tensor, "K B"]:
        """Log importance weights, log p(x,z) - log q(z|x), in nats."""
        return self.log_p_x_given_z + self.log_p_z - self.log_q_z_given_x

    @functools.cached_property
    def path_log_w(self) -> Float[Tensor, "K B"]:
        """Log-weights without the score term of q in the gradient (Roeder et al., 2017).

        Raises:
            NoClosedFormError: The draws have no `posterior`.
        """
        return self.log_w + (self.score_of_q - self.score_of_q.detach())

    @functools.cached_property
    def score_of_q(self) -> Float[Tensor, "K B"]:
        """Log q(z|x) at fixed samples. Its gradient is the score of q.

        Raises:
            NoClosedFormError: The draws have no `posterior`.
        """
        if self.posterior is None:
            raise NoClosedFormError("these draws have no posterior q(z|x)")
        return self.posterior.log_prob(self.z.detach())

    def scale_path(self, factor: Float[Tensor, "K B"]) -> None:
        """Multiply the gradient that flows through the samples by `factor`, for every use of these draws.

        Raises:
            ValueError: The gradient is scaled already, or these draws are a slice or a concatenation of others.
        """
        if not self.z.requires_grad:
            return
        if self.is_part:
            raise ValueError("the gradient through a slice or concatenation of draws cannot be scaled: draw again")
        if getattr(self.z, "_elbo_bench_scaled", False):
            raise ValueError("the gradient through these draws is scaled already: draw again for a second estimator")
        self.z._elbo_bench_scaled = True  # type: ignore[attr-defined]
        factor = factor.detach().reshape(*factor.shape, *[1] * (self.z.dim() - factor.dim()))
        self.z.register_hook(lambda gradient: gradient * factor)

    def rate(self, form: RateForm) -> Float[Tensor, " B"]:
        """Return the rate KL(q(z|x) ‖ p(z)) in nats.

        Raises:
            NoClosedFormError: `form` is `"analytic"`, and there is no closed form.
        """
        return self.analytic_kl() if form == "analytic" else (self.log_q_z_given_x - self.log_p_z).mean(0)

    def analytic_kl(self) -> Float[Tensor, " B"]:
        """Return the rate KL(q(z|x) ‖ p(z)) in nats.

        Raises:
            NoClosedFormError: There is no closed form.
        """
        if self.posterior is None or self.prior is None:
            raise NoClosedFormError("these draws have no posterior q(z|x) or no prior p(z)")
        return closed_form_kl(self.posterior, self.prior)

    def analytic_kl_per_dim(self) -> Float[Tensor, "B D"]:
        """Return KL(q(z_j|x) ‖ p(z_j)) for each dimension j, in nats.

        Raises:
            NoClosedFormError: The dimensions of the posterior or of the prior are not independent.
        """
        q, p = self.posterior, self.prior
        if not (isinstance(q, Independent) and isinstance(p, Independent)) or {
            q.reinterpreted_batch_ndims,
            p.reinterpreted_batch_ndims,
        } != {1}:
            raise NoClosedFormError(f"the KL for each dimension between {_name(q)} and {_name(p)} has no closed form")
        return closed_form_kl(q.base_dist, p.base_dist)

    def posterior_entropy(self) -> Float[Tensor, " B"]:
        """Return the entropy H[q(z|x)] in nats.

        Raises:
            NoClosedFormError: There is no closed form.
        """
        if self.posterior is None:
            raise NoClosedFormError("these draws have no posterior q(z|x)")
        try:
            return self.posterior.entropy()
        except NotImplementedError:
            raise NoClosedFormError(f"the entropy of {_name(self.posterior)} has no closed form") from None

    def samples(self, start: int, stop: int) -> "Draws":
        """Return the draws of samples `start` to `stop`, as views."""
        part: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in _PER_SAMPLE}
        return dataclasses.replace(self, **part, is_part=True)


_PER_SAMPLE = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")


def concatenate(pieces: Sequence[Draws]) -> Draws:
    """Return the concatenation of draws along the axis of samples. All must have the same posterior."""
    joined: dict[str, Any] = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _PER_SAMPLE}
    return dataclasses.replace(pieces[0], **joined, is_part=True)


def draw_for(
    bound: DrawRequirements, model: LatentVariableModel, x: Shaped[Tensor, "B *data"], noise: NormalSource
) -> Draws:
    """Return the draws that an objective needs: samples with or without gradient, or all values of a discrete latent.

    Raises:
        NotReparameterisableError: The objective needs a gradient through the samples, and the posterior has none.
        NoClosedFormError: The objective needs all values of the latent, and they cannot be enumerated.
    """
    if bound.latents == "enumerated":
        return enumerate_latents(model, model.posterior(x), x)
    return draw(model, x, bound.samples_required, noise, reparameterised=bound.reparameterised)


def enumerate_latents(model: LatentVariableModel, posterior: Distribution, x: Shaped[Tensor, "B *data"]) -> Draws:
    """Return draws of all values of a discrete latent. K is their number.

    Raises:
        NoClosedFormError: The prior is not discrete and finite, or has more than 2^17 values.
    """
    prior = model.prior()
    count = num_states(prior)
    if count is None or count > MOST_STATES:
        what = "cannot be enumerated" if count is None else f"has {count} values, more than {MOST_STATES}"
        raise NoClosedFormError(f"a sum over z: the latent of {_name(prior)} {what}")
    values = states(prior)
    return score(model, posterior, x, values[:, None].expand(count, len(x), *values.shape[1:]))


def draw(
    model: LatentVariableModel,
    x: Shaped[Tensor, "B *data"],
    num_samples: int,
    noise: NormalSource,
    *,
    posterior: Distribution | None = None,
    reparameterised: bool = True,
) -> Draws:
    """Draw `num_samples` latents for each example and compute their log-densities.

    Args:
        model: The model.
        x: Observations.
        num_samples: Number of samples, K.
        noise: Source of the random numbers.
        posterior: q(z|x), if it is computed already.
        reparameterised: Whether gradients flow through the samples.

    Raises:
        NotReparameterisableError: A gradient is required, and samples of the posterior have none.
    """
    posterior = model.posterior(x) if posterior is None else posterior
    z = sample(posterior, num_samples, noise, like=x, reparameterised=reparameterised)
    return dataclasses.replace(score(model, posterior, x, z), noise=noise.child("bound"))


def score(
    model: LatentVariableModel, posterior: Distribution, x: Shaped[Tensor, "B *data"], z: Shaped[Tensor, "K B *event"]
) -> Draws:
    """Return the draws of given latents, with their log-densities under q(z|x), the prior and the likelihood."""
    z = z.view_as(z)  # a new node of the graph, so that the hook of `scale_path` sees the gradient of these draws only
    prior = model.prior()
    return Draws(
        z=z,
        log_p_x_given_z=model.likelihood(z).log_prob(x),
        log_p_z=prior.log_prob(z),
        log_q_z_given_x=posterior.log_prob(z),
        posterior=posterior,
        prior=prior,
    )


# torch's generator is global, and evaluation draws from several threads.
_TORCH_GENERATOR = threading.Lock()


def sample(
    posterior: Distribution, num_samples: int, noise: NormalSource, *, like: Tensor, reparameterised: bool = True
) -> Shaped[Tensor, "K *rest"]:
    """Return K samples of a posterior, with the dtype and device of `like`. All randomness comes from `noise`.

    Raises:
        NotReparameterisableError: A gradient is required, and samples of the posterior have none.
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
        raise NotReparameterisableError(f"samples of {_name(posterior)} have no gradient")
    return z if reparameterised else z.detach()


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor:
    """Return KL(q ‖ p) in nats.

    Raises:
        NoClosedFormError: There is no closed form for this pair of distributions.
    """
    try:
        # torch's KL of some families, such as Bernoulli, does not broadcast.
        expands = type(p).expand is not Distribution.expand and p.batch_shape != q.batch_shape
        return kl_divergence(q, p.expand(q.batch_shape) if expands else p)
    except NotImplementedError:
        raise NoClosedFormError(f"KL between {_name(q)} and {_name(p)} has no closed form") from None


def _name(distribution: Distribution | None) -> str:
    if isinstance(distribution, Independent) and type(distribution) is Independent:
        return f"Independent {_name(distribution.base_dist)}"
    return type(distribution).__name__
