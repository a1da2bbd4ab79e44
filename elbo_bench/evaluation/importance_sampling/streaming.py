"""Estimates from a stream of log-weights, in one pass and in float64. Memory does not grow with K."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import Draws, concatenate
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.evaluation.importance_sampling.pareto import pareto_k, tail_size


class WeightSums:
    """Sums of the importance weights of B examples, each with as many samples as it was given.

    Weights are kept relative to the largest one so far.
    """

    def __init__(self, num_examples: int, device: torch.device | None = None) -> None:
        zeros = torch.zeros(num_examples, dtype=torch.float64, device=device)
        self.count = zeros.clone()
        self._log_largest = zeros - math.inf
        self.w, self._ww = zeros.clone(), zeros.clone()

    def update(self, log_w: Float[Tensor, "n B"]) -> tuple[Float[Tensor, "n B"], Float[Tensor, " B"]]:
        """Take in the next n log-weights; return the weights, and the factor by which earlier ones have shrunk."""
        self.count += len(log_w)
        log_largest = torch.maximum(self._log_largest, log_w.amax(0))
        # While all log-weights are -inf every weight is zero, whatever it is relative to.
        finite = torch.where(log_largest == -math.inf, 0.0, log_largest)
        shrink = torch.exp(self._log_largest - finite)
        self._log_largest = log_largest
        weight = torch.exp(log_w - finite)
        self.w = self.w * shrink + weight.sum(0)
        self._ww = self._ww * shrink.square() + weight.square().sum(0)
        return weight, shrink

    def log_mean_weight(self) -> Float[Tensor, " B"]:
        """Return the estimate of log p(x): biased low, by about half its squared standard error."""
        return self._log_largest + torch.log(self.w / self.count)

    def log_mean_weight_se(self) -> Float[Tensor, " B"]:
        """Return the Monte Carlo standard error of that estimate, by the delta method."""
        return self.standard_error(self.relative_variance())

    def estimate(self) -> Estimate:
        """Return the estimate of log p(x)."""
        return Estimate.of(self.log_mean_weight(), self.log_mean_weight_se())

    def effective_sample_size(self) -> Float[Tensor, " B"]:
        """Return (sum w)^2 / sum w^2, between 1 and the number of samples (Kong, 1992)."""
        return self.w.square() / self._ww

    def largest_share(self) -> Float[Tensor, " B"]:
        """Return the largest weight over the sum of all."""
        return 1 / self.w

    def relative_variance(self) -> Float[Tensor, " B"]:
        """Return the variance of the weights over their squared mean."""
        return self.count * self._ww / self.w.square() - 1

    def standard_error(self, variance: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Return the standard error of a mean of values of a variance, which rounding may have left below zero."""
        return (variance.clamp(min=0) / (self.count - 1)).sqrt()


class PairedMoments:
    """Moments of a value and of the importance weights that belong to it, for each of B examples.

    The stream comes in groups of samples. A group has the log of its mean weight and a value. The estimates are the
    mean value and log p(x), the log of the mean weight. Both come from the same samples, so their difference, a gap,
    has a smaller error than either. The error is computed from the covariance of the two.
    """

    def __init__(self, num_examples: int, device: torch.device | None = None) -> None:
        zeros = torch.zeros(num_examples, dtype=torch.float64, device=device)
        self.weights = WeightSums(num_examples, device)
        self._centre: Tensor | None = None  # moments about a value nearby do not cancel
        self._v, self._vv, self._wv = zeros.clone(), zeros.clone(), zeros.clone()

    def update(self, log_weight: Float[Tensor, "G B"], value: Float[Tensor, "G B"]) -> None:
        """Take in G groups."""
        if not len(log_weight):
            return
        weight, shrink = self.weights.update(log_weight)
        if self._centre is None:
            centre = value.mean(0)
            self._centre = torch.where(torch.isfinite(centre), centre, 0.0)
        deviation = value - self._centre
        # A sample of weight zero adds nothing, even where its log-weight, -inf, is the value.
        product = torch.where(weight == 0, 0.0, weight * deviation)
        self._wv = self._wv * shrink + product.sum(0)
        self._v = self._v + deviation.sum(0)
        self._vv = self._vv + deviation.square().sum(0)

    def mean(self) -> Float[Tensor, " B"]:
        """Return the mean value."""
        assert self._centre is not None
        return self._centre + self._v / self.weights.count

    def mean_se(self) -> Float[Tensor, " B"]:
        """Return the Monte Carlo standard error of the mean value."""
        return self.weights.standard_error(self._variance())

    def estimate(self) -> Estimate:
        """Return the mean value."""
        return Estimate.of(self.mean(), self.mean_se())

    def gap_se(self) -> Float[Tensor, " B"]:
        """Return the standard error of log p(x) - mean value, both from the same samples."""
        covariance = self._wv / self.weights.w - self._v / self.weights.count
        return self.weights.standard_error(self.weights.relative_variance() - 2 * covariance + self._variance())

    def _variance(self) -> Float[Tensor, " B"]:
        return self._vv / self.weights.count - (self._v / self.weights.count).square()


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
                filled = len(log_w) // self.group_size * self.group_size
                bounds.append(torch.logsumexp(log_w[:filled].unflatten(0, (-1, self.group_size)), 1))
                log_w = log_w[filled:]
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

    Several small groups are evaluated as one larger batch, so that a bound of one sample is not called once for every
    sample.

    Args:
        bound: The bound.
        num_examples: B.
        posterior_of: Returns q(z|x) of the batch repeated a number of times; None if the model has no q(z|x).
        device: Device of the sums.
    """

    def __init__(
        self,
        bound: Bound,
        num_examples: int,
        posterior_of: Callable[[int], Distribution] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.bound = bound
        self.samples_required = bound.samples_required
        self.moments = PairedMoments(num_examples, device)
        self._posterior_of = posterior_of
        self._waiting: list[Draws] = []
        self._filled = 0

    def update(self, draws: Draws) -> None:
        """Take in the next samples."""
        size, end = self.samples_required, draws.z.shape[0]
        start = min(end, (size - self._filled) % size)  # samples that the unfinished group needs
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
        """Take in complete groups: `[G * size, B]` becomes `[size, G * B]`."""

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


class WeightSummary(WeightSums):
    """Sums of weights, and the shape of their tail.

    Args:
        num_examples: B.
        most_samples: Most samples that an example may get.
        device: Device of the sums.
    """

    def __init__(self, num_examples: int, most_samples: int, device: torch.device | None = None) -> None:
        super().__init__(num_examples, device)
        self._tail = TailWeights(tail_size(most_samples) + 1, num_examples, device)

    def update(self, log_w: Float[Tensor, "n B"]) -> tuple[Float[Tensor, "n B"], Float[Tensor, " B"]]:
        """Take in the next n log-weights of all the examples."""
        self._tail.update(log_w)
        return super().update(log_w)

    def update_rows(self, log_w: Float[Tensor, "n R"], rows: Int[Tensor, " R"]) -> None:
        """Take in the next n log-weights of some of the examples."""
        padded = log_w.new_full((len(log_w), len(self.count)), -math.inf)
        padded[:, rows] = log_w
        count = self.count.clone()
        count[rows] += len(log_w)
        self.update(padded)
        self.count = count

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
    """Which examples met a log-weight that is NaN or +inf, which is an error, or -inf, which is a weight of zero."""

    def __init__(self, num_examples: int, device: torch.device | None = None) -> None:
        none = torch.zeros(num_examples, dtype=torch.bool, device=device)
        self.nan: Bool[Tensor, " B"] = none.clone()
        self.infinite: Bool[Tensor, " B"] = none.clone()
        self.zero: Bool[Tensor, " B"] = none.clone()

    def update(self, log_w: Float[Tensor, "n B"]) -> None:
        """Take in the next n log-weights of the distribution that the estimates are about."""
        self.update_errors(log_w)
        self.zero |= (log_w == -math.inf).any(0)

    def update_errors(self, log_w: Float[Tensor, "n R"], rows: Int[Tensor, " R"] | None = None) -> None:
        """Take in log-weights of a proposal, whose zeros explain no estimate of -inf; of all examples, or of some."""
        chosen = slice(None) if rows is None else rows
        self.nan[chosen] |= log_w.isnan().any(0)
        self.infinite[chosen] |= (log_w == math.inf).any(0)
