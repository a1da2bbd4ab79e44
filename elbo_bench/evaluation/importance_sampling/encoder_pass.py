"""K samples of the encoder's q(z|x): its estimate of log p(x), every bound, and the curve L_1 ... L_K."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, closed_form_kl, draw
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.evaluator import ScoredBound
from elbo_bench.evaluation.importance_sampling.active_units import HalvedMean, closed_form_mean
from elbo_bench.evaluation.importance_sampling.enumerated import enumerated_bounds, is_enumerated
from elbo_bench.evaluation.importance_sampling.keys import ImportanceKeys
from elbo_bench.evaluation.importance_sampling.streaming import (
    GroupedBound,
    GroupedWeights,
    NonFinite,
    PairedMoments,
    WeightSummary,
)
from elbo_bench.evaluation.scored_model import EncodedBlock
from elbo_bench.noise import NormalSource

_TAKEN_AT_ONCE = 1024  # log-weights that wait for the statistics: many small sums would cost more than the decoder


@runtime_checkable
class Drawable(Protocol):
    """A model that can only draw. Importance sampling then uses its own q(z|x)."""

    def draw(self, x: Tensor, num_samples: int, noise: NormalSource) -> Draws:
        """Return `num_samples` draws for each example."""
        ...


class EncoderPass:
    """Samples of q(z|x) for a block of B examples, and the estimates that they give.

    Args:
        keys: Keys.
        model: The model, or something that only draws.
        x: The examples.
        bounds: The bounds to evaluate.
    """

    def __init__(
        self,
        keys: ImportanceKeys,
        model: LatentVariableModel | Drawable,
        x: Shaped[Tensor, "B *data"],
        bounds: Sequence[ScoredBound],
    ) -> None:
        size, device = len(x), x.device
        self.weights, self.broken = WeightSummary(size, keys.most_samples, device), NonFinite(size, device)
        self.block: EncodedBlock | None = None
        self._rate = self._mean = self._halves = repeated = None
        if isinstance(model, LatentVariableModel):
            self.block = EncodedBlock(model, x, model.posterior(x), model.prior())
            self._rate, self._mean = _closed_form_rate(self.block), closed_form_mean(self.block.posterior)
            self._halves = HalvedMean(keys.num_samples) if self._mean is None else None
            repeated = functools.cache(lambda times: model.posterior(x.repeat(times, *[1] * (x.dim() - 1))))
        self._keys, self._model, self._x, self._bounds = keys, model, x, bounds
        names = ["elbo_mc", "distortion", "rate" if self._rate is None else "elbo_analytic"]
        self._moments = {name: PairedMoments(size, device) for name in names}
        self._curve = {k: GroupedWeights(k, size, device) for k in curve_sizes(keys.num_samples)}
        self._grouped = {
            each: GroupedBound(each.bound, size, repeated, device) for each in bounds if not is_enumerated(each.bound)
        }
        self.num_enumerated = 0
        """Latents decoded for each example by bounds that are sums over all of them."""

    def run(self, noise: NormalSource) -> dict[str, Estimate]:
        """Draw and decode K samples in chunks, and every latent if a bound needs it; return the estimates.

        A bound that draws random numbers has its own source of them. Other bounds do not change its value.
        """
        sources = {each: noise.child(f"bound/{each.name}") for each in self._grouped}
        waiting: list[tuple[Tensor, Tensor]] = []
        held, num_samples = 0, self._keys.num_samples
        for start in range(0, num_samples, self._keys.chunk_size):
            count = min(self._keys.chunk_size, num_samples - start)
            draws = self.draw(count, noise)
            for each, bound in self._grouped.items():
                bound.update(dataclasses.replace(draws, noise=sources[each]))
            if self._halves is not None:
                self._halves.update(draws.z)
            waiting.append(log_weight_terms(draws))
            held += count
            if held >= _TAKEN_AT_ONCE:
                self._take(waiting)
                waiting, held = [], 0
        self._take(waiting)
        estimates = {name: moments.estimate() for name, moments in self._paired().items()}
        if self._rate is not None:
            estimates["rate"] = Estimate.of(self._rate)
        estimates[f"L_{num_samples}"] = self.weights.estimate()
        enumerated = [each for each in self._bounds if is_enumerated(each.bound)]
        if enumerated:
            assert self.block is not None
            values, self.num_enumerated = enumerated_bounds(enumerated, self.block, self._keys.chunk_size)
            estimates |= values
        return estimates

    def draw(self, num_samples: int, noise: NormalSource, rows: Tensor | None = None) -> Draws:
        """Return the next samples of q(z|x), for all examples or for those that the caller names."""
        x = self._x if rows is None else self._x[rows]
        if self.block is None:
            assert isinstance(self._model, Drawable)
            return self._model.draw(x, num_samples, noise)
        posterior = self.block.posterior if rows is None else self.block.model.posterior(x)
        return draw(self.block.model, x, num_samples, noise, posterior=posterior, reparameterised=False)

    def gap_se(self) -> dict[str, Float[Tensor, " B"]]:
        """Return the standard error of L_K - estimate, for each estimate that comes from the same samples."""
        return {name: moments.gap_se() for name, moments in self._paired().items()}

    def posterior_mean(self) -> Float[Tensor, "B M L"] | None:
        """Return E_q z, or two independent estimates of it; None if it does not exist, as for labels."""
        if self._mean is not None:
            return self._mean if bool(self._mean.isfinite().all()) else None
        return None if self._halves is None else self._halves.means()

    def _paired(self) -> dict[str, PairedMoments]:
        return {
            **self._moments,
            **{f"L_{k}": group.moments for k, group in self._curve.items()},
            **{each.estimate: bound.moments for each, bound in self._grouped.items()},
        }

    def _take(self, waiting: list[tuple[Tensor, Tensor]]) -> None:
        if not waiting:
            return
        log_p_x_given_z, log_ratio = (torch.cat(column) for column in zip(*waiting, strict=True))
        log_w = log_p_x_given_z - log_ratio
        self.broken.update(log_w)
        self.weights.update(log_w)
        values = {"elbo_mc": log_w, "distortion": -log_p_x_given_z, "rate": log_ratio}
        if self._rate is not None:
            values["elbo_analytic"] = log_p_x_given_z - self._rate
        for name, moments in self._moments.items():
            moments.update(log_w, values[name])
        for group in self._curve.values():
            group.update(log_w)


def log_weight_terms(draws: Draws) -> tuple[Float[Tensor, "K B"], Float[Tensor, "K B"]]:
    """Return log p(x|z) and log q(z|x) - log p(z), whose difference is the log-weight, in float64."""
    return draws.log_p_x_given_z.double(), draws.log_q_z_given_x.double() - draws.log_p_z.double()


def curve_sizes(num_samples: int) -> list[int]:
    """Return 1, 2, 5, 10, ... up to K/2, so that the samples hold at least two groups of each size; and 64.

    Rainforth et al. (2018) and Tucker et al. (2019) report L_64 of every model.
    """
    steps = [step * 10**power for power in range(int(math.log10(num_samples)) + 1) for step in (1, 2, 5)]
    return [k for k in sorted({*steps, 64}) if 2 * k <= num_samples]


def _closed_form_rate(block: EncodedBlock) -> Float[Tensor, " B"] | None:
    """Return KL(q(z|x) ‖ p(z)), or None if it has no closed form."""
    try:
        return closed_form_kl(block.posterior, block.prior).double()
    except NoClosedFormError:
        return None
