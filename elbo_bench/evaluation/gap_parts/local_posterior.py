"""The best normal posterior q* of each example, found by gradient ascent on its ELBO from the encoder's q(z|x)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

from elbo_bench.distributions import DiagonalNormal, FullNormal
from elbo_bench.draws import draw
from elbo_bench.evaluation.adam import Moments
from elbo_bench.evaluation.evaluator import Evaluator, UnsuitableModelError
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite
from elbo_bench.evaluation.scored_model import EncodedBlock, is_discrete
from elbo_bench.noise import Noise, NormalSource

Family = Literal["diagonal", "full"]
WINDOW_SAMPLES = 64
"""Samples that compare the averages of two windows. All windows use the same noise."""


@dataclasses.dataclass(frozen=True)
class LocalPosterior:
    """The result of the search for a block of examples.

    Attributes:
        posterior: q*, one for each example.
        steps: Steps that each example took until it no longer improved.
        decoder_evaluations: Latents decoded for each example; a gradient counts twice. The search goes on for all
            examples of the block until it has ended for each of them.
        broken: Which examples met log-weights that are not finite.
    """

    posterior: DiagonalNormal | FullNormal
    steps: Int[Tensor, " B"]
    decoder_evaluations: int
    broken: NonFinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchKeys(Evaluator):
    """The keys of the search for q*.

    Attributes:
        family: Family of q*: normals with independent dimensions (`diagonal`), or with a full covariance (`full`).
        lr: Adam's first step, in standard deviations of the encoder's q(z|x).
        lr_decay: Factor of the step after a window without improvement.
        step_samples: Samples for a step's gradient, an even number.
        window: Steps in a window; their average is a candidate for q*.
        patience: Windows in a row without improvement after which an example's search ends.
        tolerance: Smallest improvement that counts, in nats.
        max_steps: Most steps of a search.
    """

    family: Family = "diagonal"
    lr: PositiveFloat = 0.03
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    step_samples: Annotated[int, Field(ge=2, multiple_of=2)] = 8
    window: PositiveInt = 100
    patience: PositiveInt = 4
    tolerance: Annotated[float, Field(ge=0)] = 0.001
    max_steps: PositiveInt = 5000


def fit_local(keys: SearchKeys, block: EncodedBlock, noise: Callable[[str], Noise]) -> LocalPosterior:
    r"""Return the member of a family of normals with the largest ELBO, example by example.

    .. math:: q^* = \arg\max_q E_q[\log p(x, z) - \log q(z)]

    (Cremer, Li & Duvenaud, 2018, "Inference suboptimality in variational autoencoders".) The parameters are measured
    from the encoder's q(z|x), in its standard deviations, so that one step size fits every dimension. The gradient is
    the path gradient (Roeder et al., 2017), whose noise vanishes as q approaches the posterior, over antithetic pairs
    of noise. The average of each window of steps is a candidate; the first candidate is the encoder's q(z|x). All are
    scored by the same noise. The newest is kept unless it is worse by more than two standard errors of the difference:
    the highest score would often be luck. A window without improvement shortens the steps that follow.

    No example influences another one's search.

    Args:
        keys: Keys.
        block: The examples.
        noise: Returns the noise of a purpose.

    Raises:
        ValueError: The encoder's q(z|x) has no mean and scale to start from.
    """
    model, x, size = block.model, block.x, len(block.x)
    member, flat = _family(keys.family, block.posterior)
    stream = _Antithetic(noise("gaps-optimise").stream())
    broken = NonFinite(size, x.device)

    @torch.no_grad()
    def pairs(parameters: Tensor) -> Tensor:
        # The noise is the same at every call, so that only the posterior differs.
        log_w = draw(
            model, x, WINDOW_SAMPLES, _Antithetic(noise("gaps-window")), posterior=member(parameters)
        ).log_w.double()
        broken.update(log_w)
        first, second = log_w.chunk(2)
        return 0.5 * (first + second)  # of each pair

    def gradient(parameters: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = parameters.requires_grad_()
            draws = draw(model, x, keys.step_samples, stream, posterior=member(leaf))
            broken.update(draws.log_w.detach())
            return torch.autograd.grad(draws.path_log_w.mean(0).sum(), leaf)[0]

    best, best_pairs = flat, pairs(flat)
    highest = best_pairs.mean(0)
    adam, current = Moments(flat), flat
    rate = torch.full((size, 1), keys.lr, dtype=flat.dtype, device=flat.device)
    steps = torch.zeros(size, dtype=torch.int64, device=flat.device)
    stale = torch.zeros_like(steps)
    taken, windows = 0, 1
    while taken < keys.max_steps and bool((stale < keys.patience).any()):
        mean, length = torch.zeros_like(flat), min(keys.window, keys.max_steps - taken)
        for _ in range(length):
            mean_gradient, root = adam.moments(gradient(current.detach()))
            current = current + rate * (mean_gradient / root)
            mean = mean + current / length
        taken, windows = taken + length, windows + 1
        searching = stale < keys.patience
        steps = torch.where(searching, taken, steps)
        mean_pairs = pairs(mean)
        difference = mean_pairs - best_pairs
        gain, error = difference.mean(0), difference.std(0) / math.sqrt(len(difference))
        accepted = searching & ((gain > 0) | (gain > -2 * error))
        best = torch.where(accepted[:, None], mean, best)
        best_pairs = torch.where(accepted, mean_pairs, best_pairs)
        value = mean_pairs.mean(0)
        improved = value - highest > keys.tolerance  # than the best so far, not than the window before
        highest = torch.maximum(highest, value)
        stale = torch.where(searching, torch.where(improved, 0, stale + 1), stale)
        rate = torch.where(improved[:, None], rate, rate * keys.lr_decay)
    count = 2 * keys.step_samples * taken + WINDOW_SAMPLES * windows
    return LocalPosterior(member(best), steps, count, broken)


@dataclasses.dataclass(frozen=True)
class _Antithetic:
    """Noise in pairs of opposite sign: odd functions of it cancel."""

    source: NormalSource

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        half = self.source.normal((shape[0] // 2, *shape[1:]), dtype=dtype, device=device)
        return torch.cat([half, -half])

    def torch_seed(self) -> int:
        raise AssertionError("a normal is transported from noise")

    def child(self, purpose: str) -> NormalSource:
        return self.source.child(purpose)


def _family(family: Family, posterior: Distribution) -> tuple[Callable[[Tensor], DiagonalNormal | FullNormal], Tensor]:
    """Return the family as a function of parameters `[B, P]`, and the parameters of the encoder's q(z|x).

    The parameters are the shift of the mean and the change of the Cholesky factor, with the logarithm of its diagonal,
    both in units of the encoder's q(z|x).

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
        ValueError: It has no mean or no standard deviation, or its latent is no vector of real numbers.
    """
    kind = type(posterior).__name__
    if len(posterior.batch_shape) != 1 or len(posterior.event_shape) != 1:
        raise UnsuitableModelError(
            f"the latent of q(z|x), a {kind}, is no vector, and only vectors have a best normal posterior"
        )
    if is_discrete(posterior):
        raise UnsuitableModelError(f"q(z|x), a {kind}, is discrete, and no normal distribution can replace it")
    if isinstance(posterior, MultivariateNormal):
        return posterior.loc, posterior.scale_tril
    try:
        return posterior.mean, posterior.stddev
    except (NotImplementedError, AttributeError):
        raise UnsuitableModelError(
            f"q(z|x), a {kind}, has no mean and stddev, from which the search for q* starts"
        ) from None
