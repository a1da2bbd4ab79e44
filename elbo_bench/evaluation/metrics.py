"""Means over examples with their errors, and the gate that says which estimates can be trusted."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

PARETO_K_LIMIT = 0.7
"""Above it the mean of the weights is not to be trusted (Vehtari et al., 2024)."""
BIAS_LIMIT = 0.25
"""Largest |bias| / SE at which a 95 % interval still covers: k-hat alone misses it."""
MISSED_ERRORS = 3.0
"""Standard errors by which a pilot may find more mass than the estimate did, from a hundredth of a nat on."""
MISSED_NATS = 0.25
"""Nats of which it may not find more by 1.64 standard errors: a small pilot sees a missed mode, but not sharply."""


def trusted(examples: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " N"]:
    """Return which examples pass the gate: k-hat <= 0.7, |bias| / SE <= 0.25, and no second opinion to the contrary.

    The second opinion, where there is one, is the pilot's, which also looks where the encoder does not: its estimate
    must not lie clearly above. Weights without spread have no k-hat and need none.

    The gate is not proof: weights that were never drawn cannot be seen. A whole evaluation is therefore called
    `importance` only if every example of it passes.

    Args:
        examples: Columns `log_px_se` and `pareto_k`, and `missed` and `missed_errors` if there was a pilot.
    """
    return passes(examples, "log_px", "")


def passes(examples: Mapping[str, np.ndarray], estimate: str, prefix: str) -> Bool[np.ndarray, " N"]:
    """Return which examples pass the gate by one estimate, whose diagnostics have names that begin with `prefix`.

    The bias is the second-order one of the log of a mean, half the squared error, which the jackknife estimates too.
    """
    error, pareto_k = examples[f"{estimate}_se"], examples[f"{prefix}pareto_k"]
    passing: np.ndarray = (pareto_k <= PARETO_K_LIMIT) | (error < 1e-6)
    passing = passing & (0.5 * error**2 <= BIAS_LIMIT * error)
    if f"{prefix}missed" in examples:
        nats, errors = examples[f"{prefix}missed"], examples[f"{prefix}missed_errors"]
        passing &= ~((nats > 0.01) & (errors > MISSED_ERRORS)) & ~((nats > MISSED_NATS) & (errors > 1.64))
    return passing


def means(examples: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the metric of every column that has an error, but of those that are -inf somewhere: they have no mean."""
    return {
        name: mean_over_examples(values, examples[f"{name}_se"])
        for name, values in examples.items()
        if f"{name}_se" in examples and np.isfinite(values).all()
    }


def weight_diagnostics(examples: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Return the largest and the median k-hat, where there is one, and the least and the median sample size."""
    exists = examples["pareto_k"][np.isfinite(examples["pareto_k"])]
    return {
        "pareto_k_max": float(exists.max()) if len(exists) else None,
        "pareto_k_median": float(np.median(exists)) if len(exists) else None,
        "ess_min": float(examples["ess"].min()),
        "ess_median": float(np.median(examples["ess"])),
    }


def mean_over_examples(values: Float[np.ndarray, " N"], errors: Float[np.ndarray, " N"]) -> dict[str, Any]:
    """Return a metric: the mean in nats, its standard error over the examples, and the Monte Carlo part of that.

    Sums are exact (`math.fsum`), so they do not depend on the order of the examples.
    """
    mean, count = exact_mean(values), len(values)
    squares = math.fsum((value - mean) ** 2 for value in values.tolist())
    se = math.sqrt(squares / (count - 1) / count) if count > 1 else None
    se_mc = math.sqrt(math.fsum(error**2 for error in errors.tolist())) / count
    return {"value": mean, "se": se, "se_mc": se_mc, "n": count, "unit": "nats"}


def plain_metric(value: float | int, count: int, unit: str, se: float | None = None) -> dict[str, Any]:
    """Return a metric that is no mean over examples of nats."""
    return {"value": value, "se": se, "se_mc": None, "n": count, "unit": unit}


def exact_mean(values: Float[np.ndarray, " N"]) -> float:
    """Return the mean by an exact sum."""
    return math.fsum(values.tolist()) / len(values)
