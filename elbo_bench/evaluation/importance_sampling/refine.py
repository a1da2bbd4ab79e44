"""A proposal fitted to each example's posterior: normal distributions around its modes, with their own covariances."""

import dataclasses
import math

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from elbo_bench.distributions import FullNormal
from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.adam import Moments
from elbo_bench.evaluation.scored_model import log_joint
from elbo_bench.noise import NoiseStream

HESSIAN_COST = 4
"""Decoder evaluations that a product with a Hessian counts for: a pass forward, one back, and both differentiated."""
_LARGEST_STEP = 0.3  # of the ascent, in standard deviations of q
_SAME_MODE = 0.1  # distance, in standard deviations of q, below which two modes are one
_FAR_BELOW = 10.0  # nats below the highest mode at which another mode is dropped
_SMALLEST_PRECISION = 0.3  # variances are at most 1/0.3, also where the log-joint is flat or convex
_LEAST_SHARE = 0.05
_MOST_CORRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class Refined:
    """Normal distributions for each of B examples, at most C each.

    Attributes:
        loc: Means.
        scale_tril: Cholesky factors of the covariances.
        log_shares: Logarithms of the components' shares; -inf for a component that an example does not have.
        cost: Decoder evaluations spent on each example; a gradient counts two, a product with a Hessian four.
        dtype: Type in which the model computes.
    """

    loc: Float[Tensor, "C B D"]
    scale_tril: Float[Tensor, "C B D D"]
    log_shares: Float[Tensor, "C B"]
    cost: Float[Tensor, " B"]
    dtype: torch.dtype

    def rows(self, kept: Int[Tensor, " R"]) -> "Refined":
        """Return the distributions of some of the examples."""
        return dataclasses.replace(
            self,
            loc=self.loc[:, kept],
            scale_tril=self.scale_tril[:, kept],
            log_shares=self.log_shares[:, kept],
            cost=self.cost[kept],
        )

    def parts(self, factor: float) -> tuple[FullNormal, ...]:
        """Return the components, their scales multiplied by a factor."""
        return tuple(
            FullNormal(loc.to(self.dtype), (scale * factor).to(self.dtype))
            for loc, scale in zip(self.loc, self.scale_tril, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much work is spent on fitting a proposal.

    Attributes:
        ascent_steps: Steps from each start to a mode.
        most_modes: Modes of an example that get a component.
        corrections: Natural-gradient steps of each component after that.
    """

    ascent_steps: int
    most_modes: int
    corrections: int


def num_starts(num_dims: int) -> int:
    """Return the number of starts of the search for modes: more in few dimensions, where the pilot finds several."""
    return 4 + 8 // num_dims


def affordable(num_dims: int, budget: int) -> Effort | None:
    """Return the effort that a budget of decoder evaluations for each example allows; None if it allows none."""
    hessian, starts = HESSIAN_COST * num_dims, num_starts(num_dims)
    ascent = min(50, (budget - hessian) // (4 * starts))
    if ascent < 10:
        return None
    left = budget - starts * (2 * ascent + 1)  # one more decoding of the modes, and of the means
    corrections = max(0, min(_MOST_CORRECTIONS, ((left - 1) // hessian - 1) // 2))
    return Effort(ascent, max(1, min(starts, left // (hessian * (1 + 2 * corrections) + 1))), corrections)


def refine(
    model: LatentVariableModel,
    x: Shaped[Tensor, "B *data"],
    starts: Float[Tensor, "S B D"],
    scale: Float[Tensor, "B D"],
    *,
    effort: Effort,
    stream: NoiseStream,
) -> Refined:
    r"""Return normal distributions fitted to the posterior of each example.

    Every start climbs the log-joint to a mode. Modes that coincide, or lie far below the highest, are dropped.
    Around each other mode the covariance begins as the inverse curvature (Laplace), and is corrected to that of
    the best normal distribution: its precision is the curvature, and its mean the point of zero gradient, both
    *averaged over the distribution itself*. The correction takes natural-gradient steps with one antithetic pair of
    samples each (Khan & Rue, 2023, "The Bayesian learning rule"; Opper & Archambeau, 2009). The curvature is computed
    by automatic differentiation, so any decoder will do.

    Args:
        model: The model; its parameters get no gradient.
        x: The examples.
        starts: Latents to start from.
        scale: Standard deviations of q, the unit of a step.
        effort: How much work is spent.
        stream: Source of random numbers.
    """
    modes, heights = _ascend(model, x, starts, scale, steps=effort.ascent_steps)
    keep = _distinct(modes, heights, scale, effort.most_modes)
    component, example = keep.nonzero(as_tuple=True)  # pairs of a mode and an example
    inputs, mean = x[example], modes[component, example].double()
    _, curvature = _derivatives(model, inputs, mean[None].to(x.dtype))
    precision, covariance = _definite(curvature[0])
    for step in range(effort.corrections):
        factor = torch.linalg.cholesky(covariance)
        noise = stream.normal(mean.shape, dtype=torch.float64, device=x.device)
        shift = (factor @ noise[..., None])[..., 0]
        pair = torch.stack([mean + shift, mean - shift])
        gradient, curvature = _derivatives(model, inputs, pair.to(x.dtype))
        weight = 1.0 if step == 0 else 0.6  # the first step replaces the mode's curvature, the later ones average
        precision, covariance = _definite((1 - weight) * precision + weight * curvature.mean(0))
        move = weight * (covariance @ gradient.mean(0)[..., None])[..., 0]
        # Far from a quadratic, a step of many standard deviations is no correction.
        length = (move * (precision @ move[..., None])[..., 0]).sum(-1).clamp(min=0).sqrt()
        limit = math.sqrt(mean.shape[-1])
        mean = mean + move * (limit / length.clamp(min=limit))[:, None]
    factor = torch.linalg.cholesky(covariance)
    with torch.no_grad():
        height = log_joint(model, inputs, mean[None].to(x.dtype), x.dtype)[0].double()
    evidence = height + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    per_pair = HESSIAN_COST * starts.shape[-1] * (1 + 2 * effort.corrections) + 1
    cost = len(starts) * (2.0 * effort.ascent_steps + 1) + per_pair * keep.sum(0).double()
    loc, scale_tril, log_shares = _spread(keep, mean, factor, evidence)
    return Refined(loc, scale_tril, log_shares, cost, x.dtype)


@torch.enable_grad()
def _ascend(
    model: LatentVariableModel, x: Tensor, starts: Float[Tensor, "S B D"], scale: Tensor, *, steps: int
) -> tuple[Float[Tensor, "S B D"], Float[Tensor, "S B"]]:
    """Return the highest points that Adam reaches, in steps of `scale` that shrink, and the log-joint there."""
    moved, adam = torch.zeros_like(starts), Moments(starts)
    modes, heights = starts, starts.new_full(starts.shape[:2], -math.inf)
    for step in range(1, steps + 1):
        z = (starts + scale * moved).detach().requires_grad_()
        value = log_joint(model, x, z, z.dtype)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        modes, heights = _higher(modes, heights, z, value)
        # Outside of the likelihood's support there may be no gradient.
        mean, root = adam.moments(_numbers(gradient * scale))
        size = _LARGEST_STEP * 0.5 * (1 + math.cos(math.pi * step / (steps + 1)))
        moved = moved + size * mean / root
    last = (starts + scale * moved).detach()
    with torch.no_grad():
        return _higher(modes, heights, last, log_joint(model, x, last, last.dtype))


def _higher(modes: Tensor, heights: Tensor, others: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the higher of two points for each start; NaN is never higher."""
    higher = values.detach() > heights
    return torch.where(higher[..., None], others.detach(), modes), torch.where(higher, values.detach(), heights)


def _distinct(modes: Float[Tensor, "S B D"], heights: Float[Tensor, "S B"], scale: Tensor, most: int) -> Tensor:
    """Return which modes to keep: the highest, not far below the first of them, and each once, as its highest copy."""
    keep = heights >= heights.amax(0) - _FAR_BELOW
    for one in range(len(modes)):
        for other in range(len(modes)):
            higher = (heights[other] > heights[one]) | ((heights[other] == heights[one]) & (other < one))
            same = ((modes[one] - modes[other]).abs() <= _SAME_MODE * scale).all(-1)
            if one != other:
                keep[one] &= ~(same & higher)
    order = torch.where(keep, heights, -math.inf).sort(dim=0, descending=True, stable=True).indices
    rank = torch.zeros_like(order).scatter(0, order, torch.arange(len(order), device=order.device)[:, None] + 0 * order)
    return keep & (rank < most)


@torch.enable_grad()
def _derivatives(
    model: LatentVariableModel, x: Shaped[Tensor, "P *data"], z: Float[Tensor, "S P D"]
) -> tuple[Float[Tensor, "S P D"], Float[Tensor, "S P D D"]]:
    """Return the gradient of the log-joint and its curvature, minus the Hessian, in float64."""
    num_dims = z.shape[-1]
    columns: list[Tensor] = []
    width = max(1, min(num_dims, 4096 // max(1, z[..., 0].numel())))
    slope = z
    for directions in torch.eye(num_dims, dtype=z.dtype, device=z.device).split(width):
        copies = z.expand(len(directions), *z.shape).flatten(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(log_joint(model, x, copies, copies.dtype).sum(), copies, create_graph=True)
        by_direction = gradient.unflatten(0, (len(directions), len(z)))
        along = (by_direction * directions[:, None, None]).sum()
        # If the log-joint is linear in z, its gradient does not depend on z.
        product = torch.autograd.grad(along, copies, materialize_grads=True)[0] if along.requires_grad else copies * 0
        columns.append(product.detach().unflatten(0, (len(directions), len(z))))
        slope = by_direction[0].detach()
    hessian = torch.cat(columns).permute(1, 2, 0, 3).double()
    return _numbers(slope.double()), _numbers(-(hessian + hessian.mT) / 2)


def _numbers(derivative: Tensor) -> Tensor:
    """Return zero where a derivative does not exist. The weights of the fitted proposal then show what is wrong."""
    return torch.nan_to_num(derivative, nan=0.0, posinf=0.0, neginf=0.0)


def _definite(curvature: Float[Tensor, "P D D"]) -> tuple[Float[Tensor, "P D D"], Float[Tensor, "P D D"]]:
    """Return the nearest precision that is positive, and its inverse."""
    values, vectors = torch.linalg.eigh(curvature)
    values = values.clamp(min=_SMALLEST_PRECISION)
    precision = (vectors * values[..., None, :]) @ vectors.mT
    covariance = (vectors / values[..., None, :]) @ vectors.mT
    return precision, (covariance + covariance.mT) / 2


def _spread(keep: Tensor, mean: Tensor, factor: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return means, Cholesky factors and log-shares by component and example, from those of the kept pairs."""
    component, example = keep.nonzero(as_tuple=True)
    num_dims = mean.shape[-1]
    identity = torch.eye(num_dims, dtype=mean.dtype, device=mean.device)
    loc = mean.new_zeros(*keep.shape, num_dims)
    scale_tril = identity.expand(*keep.shape, num_dims, num_dims).clone()
    level = mean.new_full(keep.shape, -math.inf)
    loc[component, example] = mean
    scale_tril[component, example] = factor
    level[component, example] = torch.nan_to_num(evidence, nan=-1e300, neginf=-1e300)  # equal if all are nothing
    shares = torch.where(keep, torch.softmax(level, 0) + _LEAST_SHARE, 0.0)
    used = keep.any(1)
    shares = (shares / shares.sum(0))[used]
    return loc[used], scale_tril[used], shares.log()
