"""Hamiltonian Monte Carlo for many chains of many examples, on a log-density that is a weighted sum of parts.

Along an annealing path only the weights of the parts change. Their values and gradients are stored separately, so a
chain that moves on to the next temperature computes nothing again.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LogParts = Callable[[Tensor], Sequence[Tensor]]
"""Maps latents `[C, B, *event]` to the parts of their log-density, each `[C, B]`, in nats."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Latents of C chains for each of B examples, with the parts of their log-density and its gradients in z.

    Attributes:
        z: The latents.
        parts: The parts, in nats, in float64.
        gradients: The gradient of each part.
    """

    z: Float[Tensor, "C B *event"]
    parts: tuple[Float[Tensor, "C B"], ...]
    gradients: tuple[Float[Tensor, "C B *event"], ...]

    def log_density(self, coefficients: Sequence[float]) -> Float[Tensor, "C B"]:
        """Return the weighted sum of the parts, in nats, without parts whose coefficient is zero."""
        terms = [c * part for c, part in zip(coefficients, self.parts, strict=True) if c]
        return torch.stack(terms).sum(0)

    def gradient(self, coefficients: Sequence[float]) -> Float[Tensor, "C B *event"]:
        """Return the gradient of the weighted sum in z."""
        terms = [c * gradient for c, gradient in zip(coefficients, self.gradients, strict=True) if c]
        return torch.stack(terms).sum(0)

    def where(self, chosen: Bool[Tensor, "C B"], other: "Point") -> "Point":
        """Return this point where `chosen` is true, and the other one elsewhere, as `torch.where` does."""
        wide = chosen.reshape(chosen.shape + (1,) * (self.z.dim() - 2))
        return Point(
            torch.where(wide, self.z, other.z),
            tuple(torch.where(chosen, a, b) for a, b in zip(self.parts, other.parts, strict=True)),
            tuple(torch.where(wide, a, b) for a, b in zip(self.gradients, other.gradients, strict=True)),
        )


def point_at(log_parts: LogParts, z: Float[Tensor, "C B *event"]) -> Point:
    """Return the parts and their gradients at z. No parameter of a model gets a gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        parts = log_parts(z)
        gradients = tuple(
            torch.autograd.grad(part.sum(), z)[0] if part.requires_grad else torch.zeros_like(z) for part in parts
        )
    return Point(z.detach(), tuple(part.detach().double() for part in parts), gradients)


@dataclasses.dataclass(frozen=True)
class Density:
    """A weighted sum of log-densities."""

    log_parts: LogParts
    coefficients: Sequence[float]


def leapfrog(
    density: Density,
    point: Point,
    momentum: Float[Tensor, "C B *event"],
    *,
    step: Float[Tensor, "B *event"],
    num_leapfrog: int,
) -> tuple[Point, Float[Tensor, "C B *event"]]:
    """Return the end of a trajectory of Hamilton's equations, and its momentum.

    The steps keep volume, and are reversed by a change of sign of the momentum. The momentum is that of the
    coordinates z / s if `step` is eps s: one eps then suits every dimension. The gradient at the end of one trajectory
    is that at the start of the next, so L steps take L gradients.
    """
    momentum = momentum + 0.5 * step * point.gradient(density.coefficients)
    for remaining in reversed(range(num_leapfrog)):
        point = point_at(density.log_parts, point.z + step * momentum)
        momentum = momentum + (1.0 if remaining else 0.5) * step * point.gradient(density.coefficients)
    return point, momentum


def transition(
    density: Density,
    point: Point,
    momentum: Float[Tensor, "C B *event"],
    log_uniform: Float[Tensor, "C B"],
    *,
    step: Float[Tensor, "B *event"],
    num_leapfrog: int,
) -> tuple[Point, Float[Tensor, "C B"]]:
    """Return the chains' next points, and the probability with which each proposal was accepted.

    Leaves exp(log-density) invariant, in detailed balance (Neal, 2011, "MCMC using Hamiltonian dynamics").

    Args:
        density: The log-density.
        point: The chains' present points.
        momentum: Standard normal numbers.
        log_uniform: Logarithms of uniform numbers, which decide on acceptance.
        step: Step size in each dimension.
        num_leapfrog: Steps of a trajectory.
    """
    proposal, final = leapfrog(density, point, momentum, step=step, num_leapfrog=num_leapfrog)
    before, after = point.log_density(density.coefficients), proposal.log_density(density.coefficients)
    log_ratio = after - before + kinetic_energy(momentum) - kinetic_energy(final)
    # A trajectory that diverges, or ends where there is no mass, is rejected. A density that is NaN at a finite point
    # is an error of the model: the proposal is accepted, the weight becomes NaN, and the run fails.
    empty = torch.stack([part == -torch.inf for part in proposal.parts]).any(0)
    finite = torch.isfinite(proposal.z).flatten(2).all(2) & torch.isfinite(kinetic_energy(final))
    log_ratio = torch.where(finite & ~empty, log_ratio, -torch.inf)
    accepted = (log_uniform < log_ratio) | torch.isnan(log_ratio)
    return proposal.where(accepted, point), log_ratio.clamp(max=0).exp()


def kinetic_energy(momentum: Float[Tensor, "C B *event"]) -> Float[Tensor, "C B"]:
    """Return half the squared momentum of each chain, in float64."""
    return 0.5 * momentum.double().square().flatten(2).sum(2)
