"""Hamiltonian Monte Carlo on a log-density that is a weighted sum of parts, for many chains of many examples at once.

Along an annealing path only the weights of the parts change. Their values and gradients are kept apart, so a chain
that moves on to the next temperature computes nothing anew.
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
        """Return the weighted sum of the parts, in nats; a coefficient of zero leaves its part out."""
        terms = [c * part for c, part in zip(coefficients, self.parts, strict=True) if c]
        return torch.stack(terms).sum(0)

    def gradient(self, coefficients: Sequence[float]) -> Float[Tensor, "C B *event"]:
        """Return the gradient of the weighted sum in z."""
        terms = [c * gradient for c, gradient in zip(coefficients, self.gradients, strict=True) if c]
        return torch.stack(terms).sum(0)

    def where(self, chosen: Bool[Tensor, "C B"], other: "Point") -> "Point":
        """Return this point where it is chosen and the other one elsewhere."""
        wide = chosen.reshape(chosen.shape + (1,) * (self.z.dim() - 2))
        return Point(
            torch.where(wide, self.z, other.z),
            tuple(torch.where(chosen, a, b) for a, b in zip(self.parts, other.parts, strict=True)),
            tuple(torch.where(wide, a, b) for a, b in zip(self.gradients, other.gradients, strict=True)),
        )


def point_at(log_parts: LogParts, z: Float[Tensor, "C B *event"]) -> Point:
    """Return the parts and their gradients at z; no parameter of a model gets a gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        parts = log_parts(z)
        gradients = tuple(
            torch.autograd.grad(part.sum(), z)[0] if part.requires_grad else torch.zeros_like(z) for part in parts
        )
    return Point(z.detach(), tuple(part.detach().double() for part in parts), gradients)


def leapfrog(
    log_parts: LogParts,
    point: Point,
    momentum: Float[Tensor, "C B *event"],
    *,
    coefficients: Sequence[float],
    step: Float[Tensor, "B *event"],
    num_leapfrog: int,
) -> tuple[Point, Float[Tensor, "C B *event"]]:
    """Return where Hamilton's equations lead, in steps that keep volume and are undone by turning the momentum.

    The momentum is that of the coordinates z / s if `step` is eps s: a step eps then suits every dimension. Its
    gradient at the end of one trajectory is that at the start of the next, so L steps take L gradients.
    """
    momentum = momentum + 0.5 * step * point.gradient(coefficients)
    for remaining in reversed(range(num_leapfrog)):
        point = point_at(log_parts, point.z + step * momentum)
        momentum = momentum + (1.0 if remaining else 0.5) * step * point.gradient(coefficients)
    return point, momentum


def transition(
    log_parts: LogParts,
    point: Point,
    momentum: Float[Tensor, "C B *event"],
    log_uniform: Float[Tensor, "C B"],
    *,
    coefficients: Sequence[float],
    step: Float[Tensor, "B *event"],
    num_leapfrog: int,
) -> tuple[Point, Float[Tensor, "C B"]]:
    """Return the chains' next points, and the probability with which each proposal was accepted.

    Leaves exp(log-density) invariant, in detailed balance (Neal, 2011, "MCMC using Hamiltonian dynamics").

    Args:
        log_parts: The parts of the log-density.
        point: Where the chains are.
        momentum: Standard normal numbers.
        log_uniform: Logarithms of uniform numbers, which decide on acceptance.
        coefficients: The weights of the parts.
        step: Step size in each dimension.
        num_leapfrog: Steps of a trajectory.
    """
    proposal, final = leapfrog(
        log_parts, point, momentum, coefficients=coefficients, step=step, num_leapfrog=num_leapfrog
    )
    before, after = point.log_density(coefficients), proposal.log_density(coefficients)
    log_ratio = after - before + kinetic_energy(momentum) - kinetic_energy(final)
    # A trajectory that ran off, or to where there is no mass, is an ordinary rejection. A density that is not a
    # number at a finite place is the model's fault: it is accepted, reaches the weight, and fails the run.
    empty = torch.stack([part == -torch.inf for part in proposal.parts]).any(0)
    finite = torch.isfinite(proposal.z).flatten(2).all(2) & torch.isfinite(kinetic_energy(final))
    log_ratio = torch.where(finite & ~empty, log_ratio, -torch.inf)
    accepted = (log_uniform < log_ratio) | torch.isnan(log_ratio)
    return proposal.where(accepted, point), log_ratio.clamp(max=0).exp()


def kinetic_energy(momentum: Float[Tensor, "C B *event"]) -> Float[Tensor, "C B"]:
    """Return half the squared momentum of each chain, in float64."""
    return 0.5 * momentum.double().square().flatten(2).sum(2)
