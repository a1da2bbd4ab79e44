"""Estimates from a stream of log-weights: one pass, float64, memory that does not grow with K."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from elbo_bench.draws import Draws, concatenate


class PairedMoments:
    """Moments of a value beside the importance weights it was drawn with, for each of B examples.

    The stream comes in groups of samples. Of each group there is the log of its mean weight and a value, and the
    estimates are the mean value and log p(x) = the log of the mean weight. Both come from the same samples, so
    their difference, a gap, has a smaller error than either: it is estimated from the covariance of the two.
    """

    def __init__(self, num_examples: int, device: torch.device | None = None) -> None:
        def zeros() -> Tensor:
            return torch.zeros(num_examples, dtype=torch.float64, device=device)

        self.count = 0
        self._weight_ref = zeros() - math.inf  # the largest log-weight so far
        self._value_ref: Tensor | None = None  # moments about a value nearby do not cancel
        self._w, self._ww, self._v, self._vv, self._wv = zeros(), zeros(), zeros(), zeros(), zeros()

    def update(self, log_weight: Float[Tensor, "G B"], value: Float[Tensor, "G B"]) -> None:
        """Take in G groups."""
        if not len(log_weight):
            return
        self.count += len(log_weight)
        reference = torch.maximum(self._weight_ref, log_weight.amax(0))
        # While nothing but -inf was seen every weight is zero, whatever the reference.
        finite = torch.where(reference == -math.inf, 0.0, reference)
        shrink = torch.exp(self._weight_ref - finite)
        self._weight_ref = reference
        weight = torch.exp(log_weight - finite)
        if self._value_ref is None:
            centre = value.mean(0)
            self._value_ref = torch.where(torch.isfinite(centre), centre, 0.0)
        deviation = value - self._value_ref
        # A sample of weight zero adds nothing, even where its log-weight, -inf, is the value.
        product = torch.where(weight == 0, 0.0, weight * deviation)
        self._w = self._w * shrink + weight.sum(0)
        self._ww = self._ww * shrink.square() + weight.square().sum(0)
        self._wv = self._wv * shrink + product.sum(0)
        self._v = self._v + deviation.sum(0)
        self._vv = self._vv + deviation.square().sum(0)

    def mean(self) -> Float[Tensor, " B"]:
        """Return the mean value."""
        assert self._value_ref is not None
        return self._value_ref + self._v / self.count

    def mean_se(self) -> Float[Tensor, " B"]:
        """Return the Monte Carlo standard error of the mean value."""
        return self._standard_error(self._vv / self.count - (self._v / self.count).square())

    def log_mean_weight(self) -> Float[Tensor, " B"]:
        """Return the estimate of log p(x): biased low, by about half its squared standard error."""
        return self._weight_ref + torch.log(self._w / self.count)

    def log_mean_weight_se(self) -> Float[Tensor, " B"]:
        """Return the Monte Carlo standard error of that estimate, by the delta method."""
        return self._standard_error(self._relative_variance())

    def gap_se(self) -> Float[Tensor, " B"]:
        """Return the standard error of log p(x) - mean value, both from the same samples."""
        mean_value = self._v / self.count
        covariance = self._wv / self._w - mean_value
        value_variance = self._vv / self.count - mean_value.square()
        return self._standard_error(self._relative_variance() - 2 * covariance + value_variance)

    def effective_sample_size(self) -> Float[Tensor, " B"]:
        """Return (sum w)^2 / sum w^2, between 1 and the number of groups (Kong, 1992)."""
        return self._w.square() / self._ww

    def _relative_variance(self) -> Tensor:
        return self.count * self._ww / self._w.square() - 1

    def _standard_error(self, variance: Tensor) -> Tensor:
        # Rounding can leave a variance of nothing a little below zero.
        return (variance.clamp(min=0) / (self.count - 1)).sqrt()


class GroupedWeights:
    """L_k from disjoint groups of k samples: as many independent values of the bound as the stream holds."""

    def __init__(self, group_size: int, num_examples: int, device: torch.device | None = None) -> None:
        self.group_size = group_size
        self.moments = PairedMoments(num_examples, device)
        self._filled = 0
        self._partial = torch.full((1, num_examples), -math.inf, dtype=torch.float64, device=device)

    def update(self, log_w: Float[Tensor, "n B"]) -> None:
        """Take in the next n log-weights."""
        bounds: list[Tensor] = []
        while len(log_w):
            if self._filled == 0 and len(log_w) >= self.group_size:
                whole = len(log_w) // self.group_size * self.group_size
                bounds.append(torch.logsumexp(log_w[:whole].unflatten(0, (-1, self.group_size)), 1))
                log_w = log_w[whole:]
                continue
            taken = log_w[: self.group_size - self._filled]
            log_w = log_w[len(taken) :]
            self._partial = torch.logsumexp(torch.cat([self._partial, taken]), 0, keepdim=True)
            self._filled += len(taken)
            if self._filled == self.group_size:
                bounds.append(self._partial)
                self._filled = 0
                self._partial = torch.full_like(self._partial, -math.inf)
        if bounds:
            value = torch.cat(bounds) - math.log(self.group_size)
            self.moments.update(value, value)


class GroupedBound:
    """The value of any bound of `Draws`, from disjoint groups of the samples that it needs."""

    def __init__(
        self,
        bound: Callable[[Draws], Tensor],
        samples_required: int,
        num_examples: int,
        device: torch.device | None = None,
    ) -> None:
        self.bound = bound
        self.samples_required = samples_required
        self.moments = PairedMoments(num_examples, device)
        self._waiting: list[Draws] = []
        self._filled = 0

    def update(self, draws: Draws) -> None:
        """Take in the next samples."""
        start, end = 0, draws.z.shape[0]
        weights: list[Tensor] = []
        values: list[Tensor] = []
        while start < end:
            stop = min(end, start + self.samples_required - self._filled)
            self._waiting.append(draws.samples(start, stop))
            self._filled += stop - start
            start = stop
            if self._filled == self.samples_required:
                group = concatenate(self._waiting)
                log_w = group.log_w.double()
                weights.append(torch.logsumexp(log_w, 0) - math.log(len(log_w)))
                values.append(self.bound(group).double())
                self._waiting, self._filled = [], 0
        if values:
            self.moments.update(torch.stack(weights), torch.stack(values))


class TailWeights:
    """The largest log-weights of a stream, for the shape of its tail."""

    def __init__(self, size: int, num_examples: int, device: torch.device | None = None) -> None:
        self._largest = torch.full((size, num_examples), -math.inf, dtype=torch.float64, device=device)

    def update(self, log_w: Float[Tensor, "n B"]) -> None:
        """Take in the next n log-weights."""
        candidates = torch.cat([self._largest, log_w])
        self._largest = candidates.topk(len(self._largest), dim=0, sorted=False).values

    def sorted(self) -> Float[Tensor, "M B"]:
        """Return the largest log-weights in ascending order."""
        return self._largest.sort(dim=0).values


class NonFinite:
    """Which examples met a log-weight that is NaN or +inf, which is no weight, or -inf, which is one of zero."""

    def __init__(self, num_examples: int, device: torch.device | None = None) -> None:
        self.nan: Bool[Tensor, " B"] = torch.zeros(num_examples, dtype=torch.bool, device=device)
        self.infinite: Bool[Tensor, " B"] = torch.zeros(num_examples, dtype=torch.bool, device=device)
        self.zero: Bool[Tensor, " B"] = torch.zeros(num_examples, dtype=torch.bool, device=device)

    def update(self, log_w: Float[Tensor, "n B"]) -> None:
        """Take in the next n log-weights."""
        self.nan |= log_w.isnan().any(0)
        self.infinite |= (log_w == math.inf).any(0)
        self.zero |= (log_w == -math.inf).any(0)
