r"""Annealing between a distribution r(z) that can be sampled and the posterior, from either end.

.. math:: \log f_b(z) = (1 - b) \log r(z) + b \log p(x,z), \quad 0 = b_0 < b_1 < \dots < b_T = 1

r integrates to 1 and f_1 to p(x), so the ratio of their integrals is p(x) (Neal, 2001, "Annealed importance sampling").
"""

import dataclasses
import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import LatentVariableModel, sample
from elbo_bench.evaluation.annealing.hmc import Density, Point, point_at, transition
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.evaluator import Evaluator, UnsuitableModelError
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite
from elbo_bench.evaluation.scored_model import is_discrete
from elbo_bench.noise import NormalSource
from elbo_bench.numerics import log_mean_exp

Schedule = Literal["linear", "sigmoid"]
Start = Literal["prior", "encoder"]

SIGMOID_RANGE = 4.0
"""The sigmoid schedule runs over [-4, 4]: `rad` of Wu et al. (2017)."""
TARGET_ACCEPTANCE = 0.65
"""Where HMC is most efficient in many dimensions (Neal, 2011, "MCMC using Hamiltonian dynamics")."""
PILOT_CHAINS = 4
PILOT_TRANSITIONS = 60
PILOT_WARM_UP = 15
PILOT_GAIN = 0.7
"""Change of the log of a step size for each unit of difference between the acceptance and its target."""
PILOT_SMOOTHING = 5
"""Transitions before and after a step size that it is averaged with, geometrically."""
SCALE_SAMPLES = 256
"""Samples from which the scale of a distribution without `stddev` is computed."""


def inverse_temperatures(schedule: Schedule, num_temperatures: int) -> list[float]:
    """Return b_0 = 0, ..., b_T = 1; the sigmoid schedule is finer at both ends (Wu et al., 2017)."""
    b = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        curve = torch.sigmoid(SIGMOID_RANGE * (2 * b - 1))
        b = (curve - curve[0]) / (curve[-1] - curve[0])
    return [0.0, *b[1:-1].tolist(), 1.0]


@dataclasses.dataclass(frozen=True)
class AnnealingPath:
    """The densities f_b for a block of B examples.

    Attributes:
        model: The model.
        x: The examples.
        posterior: q(z|x), for its samples and its scale.
        start: The distribution r: p(z) or q(z|x).
        start_scale: Standard deviation of r, by example and dimension.
        end_scale: Standard deviation of q, which approximates that of the posterior.
    """

    model: LatentVariableModel
    x: Shaped[Tensor, "B *data"]
    posterior: Distribution
    start: Start
    start_scale: Float[Tensor, "B *event"]
    end_scale: Float[Tensor, "B *event"]

    @classmethod
    def of(
        cls, model: LatentVariableModel, x: Shaped[Tensor, "B *data"], start: Start, noise: NormalSource
    ) -> "AnnealingPath":
        """Return the path of a model; `noise` is used for distributions without `stddev`.

        Raises:
            ValueError: The latents are discrete: they have no gradient.
        """
        posterior, prior = model.posterior(x), model.prior()
        if is_discrete(prior) or is_discrete(posterior):
            raise UnsuitableModelError(
                "annealing moves latents along gradients, and these are discrete; use importance sampling"
            )
        end = _scale(posterior, noise, x)
        begin = end if start == "encoder" else _scale(prior, noise, x).expand_as(end)
        return cls(model, x, posterior, start, begin, end)

    def sample(self, num_chains: int, noise: NormalSource) -> Float[Tensor, "C B *event"]:
        """Return exact samples of r."""
        if self.start == "encoder":
            return sample(self.posterior, num_chains, noise, like=self.x, reparameterised=False)
        count = len(self.x)
        z = sample(self.model.prior(), num_chains * count, noise, like=self.x, reparameterised=False)
        return z.reshape(num_chains, count, *z.shape[1:])

    def log_parts(self, z: Float[Tensor, "C B *event"]) -> tuple[Float[Tensor, "C B"], Float[Tensor, "C B"]]:
        """Return the parts of log f_b: log p(z) and log p(x|z), or log q(z|x) and log p(x,z)."""
        log_p_z, log_p_x_given_z = self.model.prior().log_prob(z), self.model.likelihood(z).log_prob(self.x)
        if self.start == "prior":
            return log_p_z, log_p_x_given_z
        return self.posterior.log_prob(z), log_p_z + log_p_x_given_z

    def coefficients(self, b: float) -> tuple[float, float]:
        """Return the weights of the parts in log f_b."""
        return (1.0, b) if self.start == "prior" else (1.0 - b, b)

    def scale(self, b: float) -> Float[Tensor, "B *event"]:
        """Return the scale of f_b as if r and the posterior were normal: their precisions are mixed."""
        if self.start == "encoder":
            return self.end_scale
        precision: Tensor = (1 - b) * self.start_scale**-2 + b * self.end_scale**-2
        return precision.rsqrt()


@dataclasses.dataclass(frozen=True)
class Annealed:
    """The result of the chains.

    Attributes:
        log_w: log-weights, in nats, in float64. Forward, exp(log_w) has the expectation p(x); in reverse, from exact
            samples of the posterior, exp(-log_w) has the expectation 1 / p(x).
        acceptance: Mean probability with which a chain's proposals were accepted; 1 if there were none.
    """

    log_w: Float[Tensor, "C B"]
    acceptance: Float[Tensor, "C B"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnealingKeys(Evaluator):
    """The keys of annealing by HMC, which `ais` and `bdmc` share.

    Attributes:
        num_chains: Chains for each example, C.
        num_temperatures: Steps from b = 0 to b = 1, T. One is plain importance sampling from r.
        num_leapfrog: Leapfrog steps of a trajectory. There is one trajectory at each inner temperature.
        schedule: Spacing of the temperatures: `linear`, or `sigmoid`, which is finer at both ends.
        start: The distribution r: `prior`, or `encoder`, the model's q(z|x).
    """

    num_chains: Annotated[int, Field(ge=2)] = 24
    num_temperatures: PositiveInt = 1000
    num_leapfrog: PositiveInt = 3
    schedule: Schedule = "sigmoid"
    start: Start = "prior"
    block_size: PositiveInt = 10

    @property
    def samples(self) -> int:
        """C."""
        return self.num_chains

    @property
    def run_evaluations(self) -> int:
        """Latents decoded for one example in one direction; a gradient counts twice."""
        return 2 * self.num_chains * (1 + (self.num_temperatures - 1) * self.num_leapfrog)

    @property
    def pilot_evaluations(self) -> int:
        """Latents decoded for one example by the pilot; a gradient counts twice."""
        transitions = PILOT_WARM_UP + PILOT_TRANSITIONS
        return 2 * PILOT_CHAINS * (1 + transitions * self.num_leapfrog) if self.num_temperatures > 1 else 0


def tune(keys: AnnealingKeys, path: AnnealingPath, noise: NormalSource) -> Float[Tensor, "inner B"]:
    """Return a step size for each inner temperature b_1 .. b_{T-1} and example, from a pilot run.

    The pilot adapts its steps on a coarser path towards an acceptance of 0.65, and its chains are dropped. A chain
    whose steps adapt while it counts would not leave f_b invariant, and its weight would be biased.
    """
    b = inverse_temperatures(keys.schedule, keys.num_temperatures)
    inner = keys.num_temperatures - 1
    log_step = torch.full((len(path.x),), math.log(0.3), dtype=torch.float64, device=path.x.device)
    if not inner:
        return log_step.new_zeros(0, len(log_step))
    visited = (torch.linspace(1, inner, PILOT_TRANSITIONS).round().int()).tolist()
    mover = _Mover(path, keys.num_leapfrog, noise)
    point = point_at(path.log_parts, path.sample(PILOT_CHAINS, noise))
    tried = []
    for t in [visited[0]] * PILOT_WARM_UP + visited:
        point, acceptance = mover.move(point, b[t], log_step.exp())
        log_step = log_step + PILOT_GAIN * (acceptance.mean(0) - TARGET_ACCEPTANCE)
        tried.append(log_step)
    kept = tried[PILOT_WARM_UP:]
    padded = torch.stack([kept[0]] * PILOT_SMOOTHING + kept + [kept[-1]] * PILOT_SMOOTHING)
    smooth = padded.unfold(0, 2 * PILOT_SMOOTHING + 1, 1).mean(-1)
    index = torch.linspace(0, len(smooth) - 1, inner, dtype=torch.float64, device=smooth.device)[:, None]
    below = index.long().clamp(max=len(smooth) - 2)
    return torch.lerp(smooth[below[:, 0]], smooth[below[:, 0] + 1], index - below).exp()


def forward(keys: AnnealingKeys, path: AnnealingPath, steps: Float[Tensor, "inner B"], noise: NormalSource) -> Annealed:
    r"""Anneal from samples of r up to the posterior.

    .. math:: \log w = \sum_{t=1}^T \log f_{b_t}(z_{t-1}) - \log f_{b_{t-1}}(z_{t-1})

    with z_0 ~ r and z_t from z_{t-1} by a transition that leaves f_{b_t} invariant (Neal, 2001).
    """
    point = point_at(path.log_parts, path.sample(keys.num_chains, noise))
    mover = _Mover(path, keys.num_leapfrog, noise)
    return _anneal(keys, mover, point, steps, order=list(range(1, keys.num_temperatures + 1)))


def reverse(
    keys: AnnealingKeys,
    path: AnnealingPath,
    steps: Float[Tensor, "inner B"],
    z: Float[Tensor, "C B *event"],
    *,
    noise: NormalSource,
) -> Annealed:
    """Anneal from exact samples of the posterior down to r: `forward` in reverse order, with the same weight.

    The chains of an example may start at the same sample. They are then dependent, but each has the right expectation.
    Source: Grosse, Ghahramani & Adams, 2015, "Sandwiching the marginal likelihood".
    """
    point = point_at(path.log_parts, z)
    mover = _Mover(path, keys.num_leapfrog, noise)
    return _anneal(keys, mover, point, steps, order=list(range(keys.num_temperatures, 0, -1)))


def mean_weight(log_w: Float[Tensor, "C B"]) -> tuple[Estimate, Float[Tensor, " B"]]:
    """Return the log of the mean weight of C chains, and the effective sample size.

    The relative error of a mean of C independent weights is the error of its logarithm (the delta method).
    """
    largest = log_w.amax(0)
    weights = torch.exp(log_w - torch.where(largest == -math.inf, 0.0, largest))
    se = weights.std(0) / weights.mean(0) / math.sqrt(len(log_w))
    return Estimate.of(log_mean_exp(log_w), se), weights.sum(0).square() / weights.square().sum(0)


def non_finite(path: AnnealingPath, steps: Float[Tensor, "inner B"], log_w: Float[Tensor, "n B"]) -> NonFinite:
    """Return which examples met a log-weight, a step or a scale that is not finite.

    A move by a scale that is NaN is always rejected, so the weights alone do not show it.
    """
    met = NonFinite(len(path.x), path.x.device)
    met.update(log_w)
    met.nan |= torch.isnan(steps).any(0) | ~torch.isfinite(path.end_scale).flatten(1).all(1)
    return met


@dataclasses.dataclass(frozen=True)
class _Mover:
    """Moves chains along a path."""

    path: AnnealingPath
    num_leapfrog: int
    noise: NormalSource

    def move(self, point: Point, b: float, step: Float[Tensor, " B"]) -> tuple[Point, Float[Tensor, "C B"]]:
        """Return the chains after one HMC transition at temperature b, and the acceptance."""
        z, scale = point.z, self.path.scale(b)
        momentum = self.noise.normal(z.shape, dtype=z.dtype, device=z.device)
        log_uniform = torch.special.log_ndtr(self.noise.normal(z.shape[:2], dtype=torch.float64, device=z.device))
        wide = step.to(z.dtype).reshape(-1, *(1,) * (scale.dim() - 1))
        density = Density(self.path.log_parts, self.path.coefficients(b))
        return transition(density, point, momentum, log_uniform, step=wide * scale, num_leapfrog=self.num_leapfrog)


def _anneal(keys: AnnealingKeys, mover: _Mover, point: Point, steps: Tensor, *, order: list[int]) -> Annealed:
    """Sum the log-weight over the intervals (b_{t-1}, b_t) in `order`, with a move between each two of them."""
    b = inverse_temperatures(keys.schedule, keys.num_temperatures)
    log_w = torch.zeros_like(point.parts[0])
    accepted = torch.zeros_like(log_w)
    for done, t in enumerate(order, start=1):
        upper, lower = mover.path.coefficients(b[t]), mover.path.coefficients(b[t - 1])
        log_w = log_w + point.log_density([high - low for high, low in zip(upper, lower, strict=True)])
        if done < len(order):
            between = max(t, order[done]) - 1
            point, acceptance = mover.move(point, b[between], steps[between - 1])
            accepted = accepted + acceptance
    moves = len(order) - 1
    return Annealed(log_w, accepted / moves if moves else torch.ones_like(accepted))


def _scale(distribution: Distribution, noise: NormalSource, like: Tensor) -> Tensor:
    """Return the standard deviation, from samples if the distribution has no `stddev`."""
    try:
        return distribution.stddev.detach()
    except (NotImplementedError, AttributeError):
        return sample(distribution, SCALE_SAMPLES, noise, like=like, reparameterised=False).std(0)
