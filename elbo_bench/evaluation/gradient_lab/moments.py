"""Moments of independent gradient estimates by parameter, their projections, and the errors of both.

No gradient is kept. The estimates are divided into a fixed number of groups. Each group keeps two vectors, and a few
numbers for each estimate. The groups give the jackknife errors, and are shared out among processes and threads.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from elbo_bench.evaluation.estimate import Columns

NUM_GROUPS = 8
"""Groups of estimates. Their number affects the result and does not depend on processes or threads."""

ROUNDINGS = 10
"""Rounding errors of the largest gradient up to which a difference counts as 0."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean of `count` gradients and their summed squared deviations from it, by parameter, in float64."""

    count: int
    mean: Float[Tensor, " P"]
    squares: Float[Tensor, " P"]

    @property
    def variance(self) -> Float[Tensor, " P"]:
        """Unbiased variance of one gradient, by parameter."""
        return self.squares / (self.count - 1)

    def merged(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together (Chan, Golub & LeVeque, 1979).

        Equal values stay exactly without variance, however they are grouped.
        """
        count, difference = self.count + other.count, other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        squares = self.squares + other.squares + difference.square() * (self.count * other.count / count)
        return Moments(count, mean, squares)

    def of(self, part: Bool[Tensor, " P"]) -> "Moments":
        """Return the moments of some parameters."""
        return Moments(self.count, self.mean[part], self.squares[part])


def measure_group(
    gradients: Iterable[Float[Tensor, " P"]],
    parts: Bool[Tensor, "2 P"],
    directions: Float[Tensor, "directions 2 P"],
) -> Columns:
    """Return the moments of a group of gradients, and for each its squared norm and projections by part.

    Args:
        gradients: The estimates, in float64; one is held at a time.
        parts: Which parameters belong to a part.
        directions: Unit vectors to project on, one for each part.
    """
    mean = squares = torch.zeros(parts.shape[1], dtype=torch.float64, device=parts.device)
    norms, projections = [], []
    for count, gradient in enumerate(gradients, start=1):
        # Welford's recurrence from the first value on: a gradient that never varies has a variance of exactly zero.
        before = gradient - mean
        mean = mean + before / count if count > 1 else gradient
        squares = squares + before * (gradient - mean)
        norms.append((gradient.square() * parts).sum(-1))
        projections.append((directions * gradient).sum(-1))
    columns = {"mean": mean, "squares": squares, "norm2": torch.stack(norms), "along": torch.stack(projections)}
    return {"count": np.array(len(norms)), **{name: column.cpu().numpy() for name, column in columns.items()}}


@dataclasses.dataclass(frozen=True)
class Measured:
    """The estimates of one estimator: groups of moments, and R rows of numbers."""

    groups: tuple[Moments, ...]
    norm2: Float[np.ndarray, "R parts"]
    along: Float[np.ndarray, "R directions parts"]

    @classmethod
    def of(cls, blocks: Sequence[Columns]) -> "Measured":
        """Put the groups together, in their order."""
        groups = [
            Moments(int(rows["count"]), torch.from_numpy(rows["mean"]), torch.from_numpy(rows["squares"]))
            for rows in blocks
        ]
        norm2, along = (np.concatenate([rows[name] for rows in blocks]) for name in ("norm2", "along"))
        return cls(tuple(groups), norm2, along)

    @property
    def mean(self) -> Float[Tensor, " P"]:
        """Mean gradient."""
        return merge(self.groups).mean


def merge(groups: Sequence[Moments]) -> Moments:
    """Return the moments of all groups together, merged in their order."""
    total = groups[0]
    for group in groups[1:]:
        total = total.merged(group)
    return total


def total_variance(moments: Moments) -> float:
    """Return the variance summed over the parameters: the trace of the gradient's covariance."""
    return float(moments.variance.sum())


def mean_snr(moments: Moments) -> float:
    r"""Return the mean over the parameters j that vary of :math:`|\mathrm{E} g_j| / \mathrm{sd}(g_j)`.

    The ratio is that of Rainforth et al. (2018), the plain average over parameters is ours. With R estimates a
    parameter whose expected gradient is zero still gives sqrt(2 / (pi R)) on average: see `snr_floor`.
    """
    varies = moments.squares > 0
    return float((moments.mean.abs()[varies] / moments.variance[varies].sqrt()).mean()) if varies.any() else math.nan


def snr_floor(count: int) -> float:
    """Return the `mean_snr` that R normal estimates give where every expected gradient is zero."""
    return math.sqrt(2 / (math.pi * count))


def jackknife(statistic: Callable[[Moments], float], groups: Sequence[Moments]) -> tuple[float, float]:
    """Return a statistic of all groups together and its delete-a-group jackknife error.

    With `NUM_GROUPS` groups the error itself is known to about a quarter.
    """
    without = [statistic(merge([*groups[:index], *groups[index + 1 :]])) for index in range(len(groups))]
    spread = np.var(without) * (len(groups) - 1)
    return statistic(merge(groups)), math.sqrt(spread)


def mean_and_error(values: Float[np.ndarray, " R"]) -> tuple[float, float]:
    """Return the mean of independent values by an exact sum, and its standard error."""
    count, mean = len(values), math.fsum(values.tolist()) / len(values)
    return mean, math.sqrt(math.fsum(((values - mean) ** 2).tolist()) / (count - 1) / count)


def cosine(left: Float[Tensor, " P"], right: Float[Tensor, " P"]) -> float | None:
    """Return the cosine of the angle between two vectors, or None if one has no length."""
    lengths = float(left.norm()) * float(right.norm())
    return float((left * right).sum()) / lengths if lengths > 0 else None


def table_row(
    measured: Measured,
    number: int,
    part: Bool[Tensor, " P"],
    *,
    oracle: Measured,
    reference: Measured | None,
    eps: float,
) -> dict[str, Any]:
    """Return the statistics of one part; None for a statistic that does not exist.

    Args:
        measured: The estimates, projected on the oracle's direction and on a random one.
        number: Index of the part.
        part: Its parameters.
        oracle: Estimates of the oracle, from other noise than its direction.
        reference: Estimates of the reference from the same noise.
        eps: Relative rounding error of the numbers that the model computes with.
    """
    groups = [group.of(part) for group in measured.groups]
    total = merge(groups)
    count, flat = total.count, total.squares == 0
    along, norms = measured.along[:, 0, number], np.sqrt(measured.norm2[:, number])
    across = np.sqrt(np.maximum(measured.norm2[:, number] - along**2, 0))
    row: dict[str, Any] = {
        "num_parameters": int(part.sum()),
        "silent": int((flat & (total.mean == 0)).sum()),
        "constant": int((flat & (total.mean != 0)).sum()),
    }
    row |= _with_error("variance", jackknife(total_variance, groups))
    row |= _with_error("snr", jackknife(mean_snr, groups) if not flat.all() else None)
    row["snr_floor"] = snr_floor(count)
    row |= _with_error("cosine", mean_and_error(along / norms) if norms.all() else None)
    row |= _with_error("dsnr", mean_and_error(np.abs(along) / across) if across.all() and part.sum() > 1 else None)
    row |= _with_error("along", mean_and_error(along))
    spread = float(along.std(ddof=1))
    row["along_snr"] = abs(row["along"]) / spread if spread > 0 else None
    rounding = ROUNDINGS * eps * float(norms.max())
    for name, which in {"bias": 0, "bias_random": 1}.items():
        paired = None if reference is None else measured.along[:, which, number] - reference.along[:, which, number]
        row |= _bias(name, None if paired is None else mean_and_error(paired), rounding)
    expected, error = mean_and_error(oracle.along[:, 0, number])
    return row | _bias("oracle_bias", (row["along"] - expected, math.hypot(row["along_se_mc"], error)), rounding)


def _with_error(name: str, estimate: tuple[float, float] | None) -> dict[str, float | None]:
    value, error = (None, None) if estimate is None else estimate
    return {name: value, f"{name}_se_mc": error}


def _bias(name: str, estimate: tuple[float, float] | None, rounding: float) -> dict[str, float | None]:
    """Return a difference with its error and z-score. The z-score's error is at least the rounding error."""
    score = None
    if estimate is not None:
        score = estimate[0] / math.hypot(estimate[1], rounding) if estimate[0] else 0.0
    return _with_error(name, estimate) | {f"{name}_z": score}
