"""Two small models whose log p(x) and posterior are known: one with a normal latent, one with a binary latent.

They share no code with the project's models. The columns of the decoder matrix are orthogonal, so the posterior has
independent dimensions, and every closed form that a bound may use exists for it.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal, Normal

from elbo_bench.distributions import DiagonalNormal
from elbo_bench.latent_states import states
from elbo_bench.noise import Noise

Part = Literal["encoder", "decoder", "prior"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "prior")
Parameters = Mapping[str, Tensor]
C = TypeVar("C", bound="Case")


@dataclasses.dataclass(frozen=True)
class Case(abc.ABC):
    """A model together with B observations. The encoder has separate parameters for each observation.

    Attributes:
        x: Observations, `[B, D]`.
        parameters: Tensors by part and name. Those of the encoder are `[B, ...]`.
    """

    x: Tensor
    parameters: Mapping[Part, Parameters]

    @abc.abstractmethod
    def posterior(self, x: Float[Tensor, "B D"]) -> Distribution:
        """Return q(z|x). `x` must be the observations of the case."""

    @abc.abstractmethod
    def prior(self) -> Distribution:
        """Return p(z)."""

    def likelihood(self, z: Float[Tensor, "*lead L"]) -> Distribution:
        """Return p(x|z)."""
        decoder = self.parameters["decoder"]
        loc = z @ decoder["weight"].mT + decoder["mean"]
        return Independent(Normal(loc, decoder["log_sigma"].exp(), validate_args=False), 1, validate_args=False)

    @abc.abstractmethod
    def log_p_x(self) -> Float[Tensor, " B"]:
        """Return log p(x) in nats, in closed form."""

    @abc.abstractmethod
    def at_posterior(self: C) -> C:
        """Return the case with q(z|x) equal to the posterior p(z|x)."""

    def replaced(self: C, part: Part, values: Parameters) -> C:
        """Return the case with new parameters of one part."""
        return dataclasses.replace(self, parameters={**self.parameters, part: dict(values)})

    def moved(self: C, part: Part, direction: Parameters, step: float) -> C:
        """Return the case with the parameters of one part moved by `step` along a direction."""
        values = self.parameters[part]
        return self.replaced(part, {name: values[name] + step * along for name, along in direction.items()})

    def select(self: C, index: Tensor) -> C:
        """Return the case of the examples with these indices, which may repeat."""
        encoder = {name: value[index] for name, value in self.parameters["encoder"].items()}
        return dataclasses.replace(self.replaced("encoder", encoder), x=self.x[index])

    def to(self: C, dtype: torch.dtype) -> C:
        """Return the case in another precision."""
        return self._each(lambda value: value.to(dtype), x=self.x.to(dtype))

    def leaves(self: C) -> C:
        """Return the case with parameters that require a gradient."""
        return self._each(lambda value: value.detach().clone().requires_grad_(), x=self.x)

    def _each(self: C, change: Any, x: Tensor) -> C:
        changed = {
            part: {name: change(value) for name, value in values.items()} for part, values in self.parameters.items()
        }
        return dataclasses.replace(self, x=x, parameters=changed)


class GaussianCase(Case):
    """A linear Gaussian model: z ~ N(m, S), x|z ~ N(W z + mu, sigma^2 I). q(z|x) has independent dimensions."""

    def posterior(self, x: Float[Tensor, "B D"]) -> DiagonalNormal:
        """Return q(z|x)."""
        encoder = self.parameters["encoder"]
        assert len(x) == len(encoder["loc"])
        return DiagonalNormal(encoder["loc"], encoder["log_scale"].exp())

    def prior(self) -> DiagonalNormal:
        """Return p(z)."""
        prior = self.parameters["prior"]
        return DiagonalNormal(prior["loc"], prior["log_scale"].exp())

    def log_p_x(self) -> Float[Tensor, " B"]:
        """Return log N(x; W m + mu, W S W' + sigma^2 I)."""
        decoder, prior = self.parameters["decoder"], self.parameters["prior"]
        weight = decoder["weight"]
        noise = (2 * decoder["log_sigma"]).exp() * torch.eye(len(weight), dtype=weight.dtype)
        covariance = weight @ (2 * prior["log_scale"]).exp().diag() @ weight.mT + noise
        log_p_x: Tensor = MultivariateNormal(weight @ prior["loc"] + decoder["mean"], covariance).log_prob(self.x)
        return log_p_x

    def at_posterior(self) -> "GaussianCase":
        """Return the case with the exact posterior, by completing the square. W'W is diagonal."""
        decoder, prior = self.parameters["decoder"], self.parameters["prior"]
        weight, noise = decoder["weight"], (2 * decoder["log_sigma"]).exp()
        prior_precision = (-2 * prior["log_scale"]).exp()
        precision = prior_precision + weight.square().sum(0) / noise
        loc = ((self.x - decoder["mean"]) @ weight / noise + prior_precision * prior["loc"]) / precision
        return self.replaced("encoder", {"loc": loc, "log_scale": (-0.5 * precision.log()).expand_as(loc)})


class DiscreteCase(Case):
    """A model with independent binary z and x|z ~ N(W z + mu, sigma^2 I). q(z|x) has independent dimensions."""

    def posterior(self, x: Float[Tensor, "B D"]) -> Independent:  # type: ignore[type-arg]
        """Return q(z|x)."""
        assert len(x) == len(self.parameters["encoder"]["logits"])
        return _bits(self.parameters["encoder"]["logits"])

    def prior(self) -> Independent:  # type: ignore[type-arg]
        """Return p(z)."""
        return _bits(self.parameters["prior"]["logits"])

    def log_p_x(self) -> Float[Tensor, " B"]:
        """Return log p(x) as a sum over all z."""
        z = states(self.prior())[:, None]
        return torch.logsumexp(self.prior().log_prob(z) + self.likelihood(z).log_prob(self.x), 0)

    def at_posterior(self) -> "DiscreteCase":
        """Return the case with the exact posterior. W'W is diagonal, so each dimension has its own log-odds."""
        decoder = self.parameters["decoder"]
        weight, noise = decoder["weight"], (2 * decoder["log_sigma"]).exp()
        evidence = ((self.x - decoder["mean"]) @ weight - weight.square().sum(0) / 2) / noise
        return self.replaced("encoder", {"logits": self.parameters["prior"]["logits"] + evidence})


def _bits(logits: Tensor) -> Independent:  # type: ignore[type-arg]
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


def gaussian_case(num_latents: int, num_examples: int, num_dims: int) -> GaussianCase:
    """Return a Gaussian case. q(z|x) has other means (by about half a scale) and scales (by about 20 %) than p(z|x)."""
    numbers = Noise(1, "conformance").stream()
    prior = {"loc": 0.3 * _normal(numbers, num_latents), "log_scale": 0.2 * _normal(numbers, num_latents)}
    parameters = {"encoder": {}, "decoder": _decoder(numbers, num_latents, num_dims), "prior": prior}
    exact = GaussianCase(_normal(numbers, num_examples, num_dims), parameters).at_posterior()  # type: ignore[arg-type]
    q = exact.parameters["encoder"]
    shape = (num_examples, num_latents)
    loc = q["loc"] + 0.5 * q["log_scale"].exp() * _normal(numbers, *shape)
    return exact.replaced("encoder", {"loc": loc, "log_scale": q["log_scale"] + 0.2 * _normal(numbers, *shape)})


def discrete_case(num_latents: int, num_examples: int, num_dims: int) -> DiscreteCase:
    """Return a binary case whose q(z|x) differs from the posterior."""
    numbers = Noise(2, "conformance").stream()
    prior = {"logits": 0.5 * _normal(numbers, num_latents)}
    parameters = {"encoder": {}, "decoder": _decoder(numbers, num_latents, num_dims), "prior": prior}
    exact = DiscreteCase(_normal(numbers, num_examples, num_dims), parameters).at_posterior()  # type: ignore[arg-type]
    logits = exact.parameters["encoder"]["logits"]
    return exact.replaced("encoder", {"logits": logits + 0.5 * _normal(numbers, num_examples, num_latents)})


def _decoder(numbers: Any, num_latents: int, num_dims: int) -> dict[str, Tensor]:
    columns = torch.linalg.qr(_normal(numbers, num_dims, num_latents)).Q
    return {
        "weight": columns * (1 + 0.3 * _normal(numbers, num_latents)),
        "mean": 0.5 * _normal(numbers, num_dims),
        "log_sigma": torch.tensor(-0.4, dtype=torch.float64),
    }


def _normal(numbers: Any, *shape: int) -> Tensor:
    return numbers.normal(shape, dtype=torch.float64)  # type: ignore[no-any-return]
