"""Estimates from a stream of log-weights: one pass, float64, memory that does not grow with K."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import Draws, concatenate
from elbo_bench.evaluation.pareto import pareto_k, tail_size


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
    """The value of any bound of `Draws`, from disjoint groups of the samples that it needs.

    Many small groups are put side by side, as if each were a batch of its own, so that a bound of one sample is not
    called once for every sample.

    Args:
        bound: The bound.
        samples_required: Samples in a group.
        num_examples: B.
        posterior_of: Returns q(z|x) of the batch, repeated so many times; None if the model has no such thing.
        device: Where sums are kept.
    """

    def __init__(
        self,
        bound: Callable[[Draws], Tensor],
        samples_required: int,
        num_examples: int,
        posterior_of: Callable[[int], Distribution] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.bound = bound
        self.samples_required = samples_required
        self.moments = PairedMoments(num_examples, device)
        self._posterior_of = posterior_of
        self._waiting: list[Draws] = []
        self._filled = 0

    def update(self, draws: Draws) -> None:
        """Take in the next samples."""
        size, end = self.samples_required, draws.z.shape[0]
        start = min(end, (size - self._filled) % size)  # what a group that was begun still lacks
        self._add(draws, 0, start)
        groups = (end - start) // size if self._posterior_of is not None else 0
        if groups > 1:
            self._side_by_side(draws.samples(start, start + groups * size), groups)
            start += groups * size
        while start < end:
            stop = min(end, start + size)
            self._add(draws, start, stop)
            start = stop

    def _add(self, draws: Draws, start: int, stop: int) -> None:
        """Take in samples of one group, and its value once it is complete."""
        if start == stop:
            return
        self._waiting.append(draws.samples(start, stop))
        self._filled += stop - start
        if self._filled == self.samples_required:
            group = concatenate(self._waiting)
            self._take(group.log_w.double()[:, None], self.bound(group).double()[None])
            self._waiting, self._filled = [], 0

    def _side_by_side(self, draws: Draws, groups: int) -> None:
        """Take in whole groups, `[G * size, B]` as `[size, G * B]`."""

        def regroup(column: Tensor) -> Tensor:
            grouped: Tensor = column.unflatten(0, (groups, self.samples_required))
            return grouped.transpose(0, 1).flatten(1, 2)

        assert self._posterior_of is not None
        batch = Draws(
            z=regroup(draws.z),
            log_p_x_given_z=regroup(draws.log_p_x_given_z),
            log_p_z=regroup(draws.log_p_z),
            log_q_z_given_x=regroup(draws.log_q_z_given_x),
            posterior=self._posterior_of(groups),
            prior=draws.prior,
            noise=draws.noise,
        )
        values = self.bound(batch).double().unflatten(0, (groups, -1))
        self._take(batch.log_w.double().unflatten(1, (groups, -1)), values)

    def _take(self, log_w: Float[Tensor, "S G B"], values: Float[Tensor, "G B"]) -> None:
        self.moments.update(torch.logsumexp(log_w, 0) - math.log(len(log_w)), values)


class TailWeights:
    """The largest log-weights of a stream, for the shape of its tail."""

    def __init__(self, size: int, num_examples: int, device: torch.device | None = None) -> None:
        self._size = size
        self._kept = [torch.full((size, num_examples), -math.inf, dtype=torch.float64, device=device)]
        self._waiting = 0

    def update(self, log_w: Float[Tensor, "n B"]) -> None:
        """Take in the next n log-weights."""
        self._kept.append(log_w)
        self._waiting += len(log_w)
        if self._waiting >= max(self._size, 1024):
            self._select()

    def sorted(self) -> Float[Tensor, "M B"]:
        """Return the largest log-weights in ascending order."""
        self._select()
        return self._kept[0].sort(dim=0).values

    def _select(self) -> None:
        self._kept = [torch.cat(self._kept).topk(self._size, dim=0, sorted=False).values]
        self._waiting = 0


class WeightSummary:
    """What the log-weights of B examples say of log p(x), each example with as many samples as it was given."""

    def __init__(self, num_examples: int, most_samples: int, device: torch.device | None = None) -> None:
        def zeros() -> Tensor:
            return torch.zeros(num_examples, dtype=torch.float64, device=device)

        self.count = zeros()
        self._reference, self._w, self._ww = zeros() - math.inf, zeros(), zeros()
        self._tail = TailWeights(tail_size(most_samples) + 1, num_examples, device)

    def update(self, log_w: Float[Tensor, "n R"], rows: Int[Tensor, " R"] | None = None) -> None:
        """Take in the next n log-weights of all the examples, or of some rows."""
        if rows is not None:
            whole = log_w.new_full((len(log_w), len(self.count)), -math.inf)
            whole[:, rows] = log_w
            self.count[rows] += len(log_w)
            log_w = whole
        else:
            self.count += len(log_w)
        reference = torch.maximum(self._reference, log_w.amax(0))
        finite = torch.where(reference == -math.inf, 0.0, reference)
        shrink = torch.exp(self._reference - finite)
        weight = torch.exp(log_w - finite)
        self._reference = reference
        self._w = self._w * shrink + weight.sum(0)
        self._ww = self._ww * shrink.square() + weight.square().sum(0)
        self._tail.update(log_w)

    def log_mean_weight(self) -> Float[Tensor, " B"]:
        """Return the estimate of log p(x)."""
        return self._reference + torch.log(self._w / self.count)

    def log_mean_weight_se(self) -> Float[Tensor, " B"]:
        """Return its Monte Carlo standard error, by the delta method."""
        variance = self.count * self._ww / self._w.square() - 1
        return (variance.clamp(min=0) / (self.count - 1)).sqrt()

    def effective_sample_size(self) -> Float[Tensor, " B"]:
        """Return (sum w)^2 / sum w^2 (Kong, 1992)."""
        return self._w.square() / self._ww

    def largest_share(self) -> Float[Tensor, " B"]:
        """Return the largest weight over the sum of all."""
        return 1 / self._w  # weights are kept relative to the largest

    def pareto_k(self) -> Float[Tensor, " B"]:
        """Return k-hat of each example's weights: see `pareto.pareto_k`."""
        largest, shape = self._tail.sorted(), torch.full_like(self.count, math.nan)
        for count in self.count.unique().tolist():
            rows = self.count == count
            if count > 0:
                part = largest[-(tail_size(int(count)) + 1) :, rows]
                shape[rows] = torch.from_numpy(pareto_k(part.cpu().numpy())).to(shape)
        return shape


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

    def update_rows(self, log_w: Float[Tensor, "n R"], rows: Int[Tensor, " R"]) -> None:
        """Take in the next n log-weights of some of the examples."""
        self.nan[rows] |= log_w.isnan().any(0)
        self.infinite[rows] |= (log_w == math.inf).any(0)

    def merge(self, other: "NonFinite") -> None:
        """Take over what another one has met, but its zeros: those are of other proposals than q."""
        self.nan |= other.nan
        self.infinite |= other.infinite
