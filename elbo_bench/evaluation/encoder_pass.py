"""K samples of the encoder's q(z|x): the field's estimate of log p(x), every bound, and the whole curve L_1 ... L_K."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, closed_form_kl, draw_from
from elbo_bench.evaluation.active_units import HalvedMean, closed_form_mean
from elbo_bench.evaluation.enumerated import EnumeratedBounds, is_enumerated
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.evaluation.streaming import GroupedBound, GroupedWeights, NonFinite, PairedMoments, WeightSummary
from elbo_bench.noise import NormalSource

_TAKEN_AT_ONCE = 1024  # log-weights that wait for the statistics: many small sums would cost more than the decoder


@runtime_checkable
class Drawable(Protocol):
    """A model of which nothing is known but how to draw: it gets importance sampling by its own q alone."""

    def draw(self, x: Tensor, num_samples: int, noise: NormalSource) -> Draws:
        """Return `num_samples` draws for each example."""
        ...


class EncoderPass:
    """Samples of q(z|x) for a block of B examples, and what they say.

    Args:
        model: The model, or something that only draws.
        x: The examples.
        num_samples: K.
        bounds: Further bounds to evaluate, by name.
        most_samples: Samples that `weights` may come to hold.
    """

    def __init__(
        self,
        model: LatentVariableModel | Drawable,
        x: Shaped[Tensor, "B *data"],
        num_samples: int,
        bounds: Mapping[str, Bound],
        most_samples: int,
    ) -> None:
        size, device = len(x), x.device
        self.weights = WeightSummary(size, most_samples, device)
        self.broken = NonFinite(size, device)
        self._model, self._x, self._num_samples = model, x, num_samples
        self.posterior = model.posterior(x) if isinstance(model, LatentVariableModel) else None
        self._rate = None if self.posterior is None else analytic_rate(self.posterior, model)  # type: ignore[arg-type]
        names = ["elbo_mc", "distortion", "rate" if self._rate is None else "elbo_analytic"]
        self._moments = {name: PairedMoments(size, device) for name in names}
        self._curve = {k: GroupedWeights(k, size, device) for k in curve_sizes(num_samples)}
        repeated = None if self.posterior is None else functools.cache(self._repeated)
        self._bounds = {
            name: GroupedBound(bound, bound.samples_required, size, repeated, device)
            for name, bound in bounds.items()
            if not is_enumerated(bound)
        }
        self._enumerated = EnumeratedBounds({name: bound for name, bound in bounds.items() if is_enumerated(bound)})
        self._mean = None if self.posterior is None else closed_form_mean(self.posterior)
        self._halves = HalvedMean(num_samples) if self.posterior is not None and self._mean is None else None

    def run(self, noise: NormalSource, chunk_size: int) -> None:
        """Draw and decode K samples, in chunks; then every latent, if a bound is a sum over all.

        Each bound that draws numbers of its own has a source of its own: whether another is there changes nothing.
        """
        apart = {name: noise.apart(f"bound/{name}") for name in self._bounds}
        waiting: list[tuple[Tensor, Tensor]] = []
        held = 0
        for start in range(0, self._num_samples, chunk_size):
            count = min(chunk_size, self._num_samples - start)
            draws = self.draw(count, noise)
            for name, bound in self._bounds.items():
                bound.update(dataclasses.replace(draws, noise=apart[name]))
            if self._halves is not None:
                self._halves.update(draws.z)
            # log q(z|x) - log p(z), in float64 before they are subtracted.
            log_ratio = draws.log_q_z_given_x.double() - draws.log_p_z.double()
            waiting.append((draws.log_p_x_given_z.double(), log_ratio))
            held += count
            if held >= _TAKEN_AT_ONCE:
                self._take(waiting)
                waiting, held = [], 0
        self._take(waiting)
        if self._enumerated.bounds:
            assert isinstance(self._model, LatentVariableModel)
            assert self.posterior is not None
            self._enumerated.compute(self._model, self.posterior, self._x, chunk_size)

    @property
    def enumerated(self) -> int:
        """Latents decoded for each example where bounds are sums over all of them."""
        return self._enumerated.num_states

    def draw(self, num_samples: int, noise: NormalSource) -> Draws:
        """Return the next draws of q(z|x)."""
        if self.posterior is None:
            assert isinstance(self._model, Drawable)
            return self._model.draw(self._x, num_samples, noise)
        assert isinstance(self._model, LatentVariableModel)
        return draw_from(self._model, self.posterior, self._x, num_samples, noise, reparameterised=False)

    def columns(self) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
        """Return estimates with their errors, and the error of L_K - an estimate, from the same samples."""
        columns: dict[str, Tensor] = {}
        estimates = dict(self._moments)
        estimates |= {f"L_{k}": group.moments for k, group in self._curve.items()}
        estimates |= {name: bound.moments for name, bound in self._bounds.items()}
        for name, estimate in estimates.items():
            columns |= {name: estimate.mean(), f"{name}_se": estimate.mean_se()}
        if self._rate is not None:
            columns |= {"rate": self._rate, "rate_se": torch.zeros_like(self._rate)}
        whole = f"L_{self._num_samples}"
        columns |= {whole: self.weights.log_mean_weight(), f"{whole}_se": self.weights.log_mean_weight_se()}
        columns |= self._enumerated.columns()
        error = columns[f"{whole}_se"]  # of log p(x): all that the gap of an exact value has
        if (mean := self._posterior_mean()) is not None:
            columns["posterior_mean"] = mean
        return columns, lambda name: estimates[name].gap_se() if name in estimates else error

    def _posterior_mean(self) -> Float[Tensor, "B M L"] | None:
        """Return E_q z, or two independent estimates of it; None if there is none, as of labels."""
        if self._mean is not None:  # Cauchy's is NaN; that of a broken encoder shows in its weights
            return self._mean if bool(self._mean.isfinite().all()) else None
        return None if self._halves is None else self._halves.means()

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

    def _repeated(self, times: int) -> Distribution:
        assert isinstance(self._model, LatentVariableModel)
        return self._model.posterior(self._x.repeat(times, *[1] * (self._x.dim() - 1)))


def curve_sizes(num_samples: int) -> list[int]:
    """Return 1, 2, 5, 10, ... up to K/2, sizes of which the samples hold at least two groups; and 64 among them.

    L_64 is what Rainforth et al. (2018) and Tucker et al. (2019) report of every model.
    """
    steps = [step * 10**power for power in range(int(math.log10(num_samples)) + 1) for step in (1, 2, 5)]
    return [k for k in sorted({*steps, 64}) if 2 * k <= num_samples]


def analytic_rate(posterior: Distribution, model: LatentVariableModel) -> Float[Tensor, " B"] | None:
    """Return KL(q(z|x) ‖ p(z)), or None where it has no closed form; the record says which it was."""
    try:
        return closed_form_kl(posterior, model.prior()).double()
    except NoClosedFormError:
        return None
