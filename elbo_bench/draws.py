"""The contract between models and objectives: samples of the latent, and every log-density at them.

A model knows nothing of bounds and an objective sees no network: they meet in `Draws`.
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
"""How a rate is computed: in closed form, or as the mean of log q(z|x) - log p(z) over the samples."""


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


@runtime_checkable
class Asks(Protocol):
    """What the sampler must know of a bound: every objective says it."""

    @property
    def samples_required(self) -> int:
        """Samples that one value takes."""
        ...

    @property
    def reparameterised(self) -> bool:
        """Whether its gradient flows through the samples."""
        ...

    @property
    def latents(self) -> Literal["sampled", "enumerated"]:
        """Whether it is given samples of q(z|x) or every value of a discrete latent."""
        ...


@dataclasses.dataclass(frozen=True)
class Draws:
    """K samples of q(z|x) for each of B examples, and the three log-densities at them, in nats.

    The first four are enough for any bound of log-weights; a model that has no distribution to show leaves out
    `posterior` and `prior`. `noise` is for bounds that draw numbers of their own: it is independent of the samples.

    Raises:
        ValueError: The log-densities and the samples do not have the same K and B, or the posterior's batch is not
            `[B]`: axes are swapped.
    """

    z: Shaped[Tensor, "K B *event"]
    log_p_x_given_z: Float[Tensor, "K B"]
    log_p_z: Float[Tensor, "K B"]
    log_q_z_given_x: Float[Tensor, "K B"]
    posterior: Distribution | None = None
    prior: Distribution | None = None
    noise: NormalSource | None = None
    whole: bool = True
    """Whether the log-densities were computed from this very `z`, and not from one that it was cut out of."""

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
        """Log-weights of the same value whose gradient lacks the score term of q (Roeder et al., 2017).

        Raises:
            NoClosedFormError: The draws do not say what q is.
        """
        return self.log_w + (self.score_of_q - self.score_of_q.detach())

    @functools.cached_property
    def score_of_q(self) -> Float[Tensor, "K B"]:
        """Log q(z|x) at samples that are held fixed: its gradient is the score of q.

        Raises:
            NoClosedFormError: The draws do not say what q is.
        """
        if self.posterior is None:
            raise NoClosedFormError("these draws do not say what q(z|x) is")
        return self.posterior.log_prob(self.z.detach())

    def scale_path(self, factor: Float[Tensor, "K B"]) -> None:
        """Multiply by `factor` all the gradient that flows through the samples, of whatever these draws are used for.

        Raises:
            ValueError: It is multiplied already: these draws serve another estimator. Or they are a part of others.
        """
        if not self.z.requires_grad:
            return
        if not self.whole:
            raise ValueError("a part of some draws, or several put together, has no path of its own: draw anew")
        if getattr(self.z, "_elbo_bench_scaled", False):
            raise ValueError("the path through these draws is scaled already: draw anew for a second estimator")
        self.z._elbo_bench_scaled = True  # type: ignore[attr-defined]
        factor = factor.detach().reshape(*factor.shape, *[1] * (self.z.dim() - factor.dim()))
        self.z.register_hook(lambda gradient: gradient * factor)

    def rate(self, form: RateForm) -> Float[Tensor, " B"]:
        """Return the rate KL(q(z|x) ‖ p(z)) in nats, exact or estimated from the samples.

        Raises:
            NoClosedFormError: The closed form is asked for, and the pair of distributions has none.
        """
        return self.analytic_kl() if form == "analytic" else (self.log_q_z_given_x - self.log_p_z).mean(0)

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
        return dataclasses.replace(self, **part, whole=False)


_PER_SAMPLE = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")


def concatenate(pieces: Sequence[Draws]) -> Draws:
    """Return draws of one posterior, joined along the axis of samples."""
    joined: dict[str, Any] = {name: torch.cat([getattr(piece, name) for piece in pieces]) for name in _PER_SAMPLE}
    return dataclasses.replace(pieces[0], **joined, whole=False)


def draw_for(bound: Asks, model: LatentVariableModel, x: Shaped[Tensor, "B *data"], noise: NormalSource) -> Draws:
    """Draw what a bound asks for: its samples, with or without a gradient, or every value of a discrete latent.

    Raises:
        NotReparameterisableError: It needs a gradient through the samples, and the posterior has none.
        NoClosedFormError: It needs every value of the latent, and they cannot be enumerated.
    """
    if bound.latents == "enumerated":
        return enumerate_latents(model, model.posterior(x), x)
    return draw(model, x, bound.samples_required, noise, reparameterised=bound.reparameterised)


def enumerate_latents(model: LatentVariableModel, posterior: Distribution, x: Shaped[Tensor, "B *data"]) -> Draws:
    """Return every value of a discrete latent in the place of samples: K is their number.

    Raises:
        NoClosedFormError: The prior is not discrete and finite, or has too many values.
    """
    prior = model.prior()
    count = num_states(prior)
    if count is None or count > MOST_STATES:
        what = "cannot be enumerated" if count is None else f"has {count} values, more than {MOST_STATES}"
        raise NoClosedFormError(f"a sum over z: the latent of {_name(prior)} {what}")
    every = states(prior)
    return score(model, posterior, x, every[:, None].expand(count, len(x), *every.shape[1:]))


def draw(
    model: LatentVariableModel,
    x: Shaped[Tensor, "B *data"],
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
    x: Shaped[Tensor, "B *data"],
    num_samples: int,
    noise: NormalSource,
    *,
    reparameterised: bool = True,
) -> Draws:
    """Draw from a posterior that is already there: encode once, decode as often as needed."""
    z = sample(posterior, num_samples, noise, like=x, reparameterised=reparameterised)
    return dataclasses.replace(score(model, posterior, x, z), noise=noise.apart("bound"))


def score(
    model: LatentVariableModel, posterior: Distribution, x: Shaped[Tensor, "B *data"], z: Shaped[Tensor, "K B *event"]
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
        expands = type(p).expand is not Distribution.expand and p.batch_shape != q.batch_shape
        return kl_divergence(q, p.expand(q.batch_shape) if expands else p)
    except NotImplementedError:
        raise NoClosedFormError(f"KL between {_name(q)} and {_name(p)} has no closed form") from None


def _name(distribution: Distribution | None) -> str:
    if isinstance(distribution, Independent) and type(distribution) is Independent:
        return f"Independent {_name(distribution.base_dist)}"
    return type(distribution).__name__
