"""The best normal posterior of each example, found by climbing its ELBO from the encoder's q(z|x)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from elbo_bench.distributions import DiagonalNormal, FullNormal
from elbo_bench.draws import LatentVariableModel, draw_from
from elbo_bench.evaluation.evaluator import UnsuitableModelError
from elbo_bench.evaluation.streaming import NonFinite
from elbo_bench.noise import Noise, NormalSource

Family = Literal["diagonal", "full"]
WINDOW_SAMPLES = 64
"""Samples by which one window's average is compared with the one before: the same noise for all of them."""
_BETAS = (0.9, 0.99)
_TINY = 1e-8


@dataclasses.dataclass(frozen=True)
class LocalPosterior:
    """What was found for a block of examples.

    Attributes:
        posterior: q*, one for each example.
        steps: Steps that each example took until it no longer improved.
        decoder_evaluations: Latents decoded for each example, a gradient counted twice; the block stops as one.
        broken: Which examples met log-weights that are no numbers on the way.
    """

    posterior: DiagonalNormal | FullNormal
    steps: Int[Tensor, " B"]
    decoder_evaluations: int
    broken: NonFinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptimiser:
    r"""Finds the member of a family of normals with the largest ELBO, example by example.

    .. math:: q^* = \arg\max_q E_q[\log p(x, z) - \log q(z)]

    (Cremer, Li & Duvenaud, 2018, "Inference suboptimality in variational autoencoders".) The parameters
    are measured from where they start, in its standard deviations, so that one step size fits every dimension. The
    gradient is that of the path alone (Roeder et al., 2017), whose noise vanishes as q nears the posterior, over
    pairs of opposite noise. The average of each window of steps is a candidate, where it began being the first. All
    are scored by the same noise, and the newest is kept unless it is worse by more than two standard errors of the
    difference: the highest score would often be luck. A window that gains nothing shortens the steps that follow.

    Nothing of one example enters another's search.

    Attributes:
        family: Independent dimensions or a full covariance.
        lr: Adam's step to begin with, in standard deviations of where the search starts.
        lr_decay: What a window without improvement multiplies the step by.
        step_samples: Samples of a step's gradient.
        window: Steps in a window.
        patience: Windows in a row without improvement after which the search ends.
        tolerance: What is no improvement, in nats.
        max_steps: Where the search ends in any case.
    """

    family: Family
    lr: float
    lr_decay: float
    step_samples: int
    window: int
    patience: int
    tolerance: float
    max_steps: int

    def fit(
        self, model: LatentVariableModel, x: Shaped[Tensor, "B *data"], posterior: Distribution, seed: int, block: int
    ) -> LocalPosterior:
        """Return the best posterior of each example; only its parameters have gradients, the model's have none.

        Raises:
            ValueError: The encoder's q(z|x) is nothing that a normal can start from.
        """
        member, flat = _family(self.family, posterior)
        size = len(x)
        stream = _Opposite(Noise(seed, "gaps-optimise", block).stream())
        broken = NonFinite(size, x.device)

        @torch.no_grad()
        def pairs(parameters: Tensor) -> Tensor:
            # The noise is the same at every call: what differs is the posterior.
            noise = _Opposite(Noise(seed, "gaps-window", block))
            log_w = draw_from(model, member(parameters), x, WINDOW_SAMPLES, noise).log_w.double()
            broken.update(log_w)
            first, second = log_w.chunk(2)
            return 0.5 * (first + second)  # of each pair

        def gradient(parameters: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = parameters.requires_grad_()
                draws = draw_from(model, member(leaf), x, self.step_samples, stream)
                broken.update(draws.log_w.detach())
                return torch.autograd.grad(draws.path_log_w.mean(0).sum(), leaf)[0]

        best, best_pairs = flat, pairs(flat)
        highest = best_pairs.mean(0)
        adam, current = _Adam(flat), flat
        rate = torch.full((size, 1), self.lr, dtype=flat.dtype, device=flat.device)
        steps = torch.zeros(size, dtype=torch.int64, device=flat.device)
        stale = torch.zeros_like(steps)
        taken, windows = 0, 1
        while taken < self.max_steps and bool((stale < self.patience).any()):
            mean, length = torch.zeros_like(flat), min(self.window, self.max_steps - taken)
            for _ in range(length):
                current = current + rate * adam.direction(gradient(current.detach()))
                mean = mean + current / length
            taken, windows = taken + length, windows + 1
            searching = stale < self.patience
            steps = torch.where(searching, taken, steps)
            mean_pairs = pairs(mean)
            difference = mean_pairs - best_pairs
            gain, error = difference.mean(0), difference.std(0) / math.sqrt(len(difference))
            accepted = searching & ((gain > 0) | (gain > -2 * error))
            best = torch.where(accepted[:, None], mean, best)
            best_pairs = torch.where(accepted, mean_pairs, best_pairs)
            value = mean_pairs.mean(0)
            improved = value - highest > self.tolerance  # not than the one before: ups and downs are no progress
            highest = torch.maximum(highest, value)
            stale = torch.where(searching, torch.where(improved, 0, stale + 1), stale)
            rate = torch.where(improved[:, None], rate, rate * self.lr_decay)
        count = 2 * self.step_samples * taken + WINDOW_SAMPLES * windows
        return LocalPosterior(member(best), steps, count, broken)


class _Adam:
    """Adam's direction (Kingma & Ba, 2015, algorithm 1) of ascent, of size about one, for a step size by row."""

    def __init__(self, like: Tensor) -> None:
        self._first, self._second, self._count = torch.zeros_like(like), torch.zeros_like(like), 0

    def direction(self, gradient: Tensor) -> Tensor:
        self._count += 1
        first, second = _BETAS
        self._first = first * self._first + (1 - first) * gradient
        self._second = second * self._second + (1 - second) * gradient.square()
        mean = self._first / (1 - first**self._count)
        return mean / ((self._second / (1 - second**self._count)).sqrt() + _TINY)


@dataclasses.dataclass(frozen=True)
class _Opposite:
    """Hands out noise in pairs of opposite sign: what is odd in it cancels."""

    source: NormalSource

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        half = self.source.normal((shape[0] // 2, *shape[1:]), dtype=dtype, device=device)
        return torch.cat([half, -half])

    def torch_seed(self) -> int:
        raise AssertionError("a normal is transported from noise")

    def apart(self, purpose: str) -> NormalSource:
        return self.source.apart(purpose)


def _family(family: Family, posterior: Distribution) -> tuple[Callable[[Tensor], DiagonalNormal | FullNormal], Tensor]:
    """Return the family as a function of parameters `[B, P]`, and those at which it is the encoder's q(z|x).

    They are the shift of the mean and the change of the Cholesky factor, its diagonal as logarithms, both in units of
    where they began.

    Raises:
        ValueError: The encoder's q(z|x) has no mean or no standard deviation, or its latent is no real vector.
    """
    loc, scale_tril = start(posterior)
    size, num_dims = loc.shape
    if family == "diagonal":
        scale = scale_tril if scale_tril.dim() == 2 else scale_tril.square().sum(-1).sqrt()

        def diagonal(parameters: Tensor) -> DiagonalNormal:
            shift, log_ratio = parameters.split(num_dims, 1)
            return DiagonalNormal(loc + scale * shift, scale * log_ratio.exp())

        return diagonal, loc.new_zeros(size, 2 * num_dims)
    factor = torch.diag_embed(scale_tril) if scale_tril.dim() == 2 else scale_tril

    def full(parameters: Tensor) -> FullNormal:
        shift, raw = parameters[:, :num_dims], parameters[:, num_dims:].unflatten(1, (num_dims, num_dims))
        change = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=1, dim2=2).exp())
        return FullNormal(loc + (factor @ shift.unsqueeze(-1)).squeeze(-1), factor @ change)

    return full, loc.new_zeros(size, num_dims * (num_dims + 1))


def start(posterior: Distribution) -> tuple[Float[Tensor, "B D"], Tensor]:
    """Return the mean of an encoder's q(z|x), and its standard deviation `[B, D]` or Cholesky factor `[B, D, D]`.

    Raises:
        ValueError: It has none, or its latent is no vector of real numbers.
    """
    kind = type(posterior).__name__
    if len(posterior.batch_shape) != 1 or len(posterior.event_shape) != 1:
        raise UnsuitableModelError(
            f"the latent of q(z|x), a {kind}, is no vector, and a best normal is sought for vectors only"
        )
    if _is_discrete(posterior):
        raise UnsuitableModelError(f"q(z|x), a {kind}, is discrete, and no normal can take its place")
    if isinstance(posterior, MultivariateNormal):
        return posterior.loc, posterior.scale_tril
    try:
        return posterior.mean, posterior.stddev
    except (NotImplementedError, AttributeError):
        raise UnsuitableModelError(
            f"q(z|x), a {kind}, has no mean and stddev, from which the search for q* starts"
        ) from None


def _is_discrete(distribution: Distribution) -> bool:
    try:
        return bool(getattr(distribution.support, "is_discrete", False))
    except (NotImplementedError, AttributeError):
        return False
