"""Means over examples with their errors, and the gate that says which estimates of log p(x) can be trusted."""

import math
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Float

from elbo_bench.evaluation.estimate import Columns, Estimate, Scores
from elbo_bench.metric import Bias, Metric

PARETO_K_LIMIT = 0.7
"""Largest k-hat at which the mean of the weights can be trusted (Vehtari et al., 2024)."""
BIAS_LIMIT = 0.25
"""Largest |bias| / SE at which a 95 % interval still covers. k-hat alone does not see this."""
MISSED_ERRORS = 3.0
"""Standard errors by which the pilot's estimate may lie above, if it does so by more than 0.01 nat."""
MISSED_NATS = 0.25
"""Nats by which the pilot's estimate may lie above, if it does so by more than 1.64 standard errors."""


def passes_gate(
    se_mc: Float[np.ndarray, " N"],
    pareto_k: Float[np.ndarray, " N"],
    missed: Float[np.ndarray, " N"] | None = None,
    missed_errors: Float[np.ndarray, " N"] | None = None,
) -> Bool[np.ndarray, " N"]:
    """Return which estimates of log p(x) pass the gate.

    An estimate passes if k-hat <= 0.7, its bias is at most a quarter of its standard error, and the pilot's estimate
    does not lie clearly above it. The pilot also draws where the encoder does not. The bias is the second-order bias
    of the log of a mean, half the squared error. Weights without spread have no k-hat and need none.

    The gate is no proof: weights that were never drawn cannot be seen. The tier of an evaluation is therefore
    `importance` only if every example passes.

    Args:
        se_mc: Monte Carlo standard error of each estimate, in nats.
        pareto_k: k-hat of its weights.
        missed: Nats by which the pilot's estimate lies above; None if there was no pilot.
        missed_errors: The same in standard errors of the difference.
    """
    passing: np.ndarray = (pareto_k <= PARETO_K_LIMIT) | (se_mc < 1e-6)
    passing = passing & (0.5 * se_mc**2 <= BIAS_LIMIT * se_mc)
    if missed is not None and missed_errors is not None:
        passing &= ~((missed > 0.01) & (missed_errors > MISSED_ERRORS))
        passing &= ~((missed > MISSED_NATS) & (missed_errors > 1.64))
    return passing


def mean_metrics(scores: Scores, labels: Mapping[str, str], low: Collection[str] = ()) -> dict[str, Metric]:
    """Return the metric of every estimate that is finite for all examples. An estimate of -inf has no mean.

    Args:
        scores: The estimates.
        labels: What each metric is, in one line.
        low: Metrics that are too low where log p(x) is only a lower bound.
    """
    return {
        name: mean_over_examples(estimate, labels[name], bias="low" if name in low else None)
        for name, estimate in scores.estimates.items()
        if np.isfinite(estimate.value).all()
    }


def weight_diagnostics(columns: Columns) -> dict[str, float | None]:
    """Return the largest and the median k-hat, and the smallest and the median effective sample size."""
    pareto_k = columns["pareto_k"][np.isfinite(columns["pareto_k"])]
    return {
        "pareto_k_max": float(pareto_k.max()) if len(pareto_k) else None,
        "pareto_k_median": float(np.median(pareto_k)) if len(pareto_k) else None,
        "ess_min": float(columns["ess"].min()),
        "ess_median": float(np.median(columns["ess"])),
    }


def mean_over_examples(estimate: Estimate, label: str, *, unit: str = "nats", bias: Bias | None = None) -> Metric:
    """Return the mean of an estimate over the examples, with its test-set and Monte Carlo standard errors.

    Sums are exact (`math.fsum`), so they do not depend on the order of the examples.
    """
    mean, count = exact_mean(estimate.value), len(estimate.value)
    squares = math.fsum((value - mean) ** 2 for value in estimate.value.tolist())
    se_test = math.sqrt(squares / (count - 1) / count) if count > 1 else None
    se_mc = math.sqrt(math.fsum(error**2 for error in estimate.se_mc.tolist())) / count
    return Metric(value=mean, se_test=se_test, se_mc=se_mc, n=count, unit=unit, label=label, bias=bias)


def plain_metric(value: float | int, count: int, unit: str, label: str) -> Metric:
    """Return a metric without errors, such as a count."""
    return Metric(value=value, se_test=None, se_mc=None, n=count, unit=unit, label=label, bias=None)


def column_metric(column: np.ndarray, unit: str, label: str) -> Metric:
    """Return the mean of a column that is no estimate."""
    return plain_metric(exact_mean(column), len(column), unit, label)


def ess_metric(columns: Columns) -> Metric:
    """Return the mean effective sample size."""
    return column_metric(columns["ess"], "samples", "effective sample size of the weights")


def exact_mean(values: np.ndarray) -> float:
    """Return the mean by an exact sum."""
    return math.fsum(values.tolist()) / len(values)
