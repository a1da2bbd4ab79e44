"""Scores of configurations example by example, for paired comparisons."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.report.ties import Comparison, evidence
from elbo_bench.results.record import read_examples

_LARGEST = 1e100
"""No log-density is larger. The square of a larger number overflows."""
_OF_LOG_PX = ("log_px_bias", "log_px_se_mc", "pareto_k", "missed", "missed_errors")
"""Further columns of log p(x): its estimated bias, and what the gate needs. The last two exist if there was a pilot."""


_LEAST_PASSING = 0.7
"""Share of a run's examples that must pass the gate before any of them is called resolved.

Measured on a linear Gaussian model whose log p(x) is known, 10,000 examples, K from 40 to 2,000: with a poor q(z|x) at
most 59 % pass, and those that pass lie 0.3 nat low; with proposal=auto at least 77 % pass, and show no such bias.
"""


@dataclasses.dataclass(frozen=True)
class _Examples:
    """One column of a run's examples, in the order of their ids; or its mean over the seeds of a configuration.

    Attributes:
        ids: The ids, as bytes.
        values: The column.
        upper: The column less its estimated bias.
        resolved: Whether the estimate passes the gate.
    """

    ids: bytes
    values: Float[np.ndarray, " N"]
    upper: Float[np.ndarray, " N"]
    resolved: Bool[np.ndarray, " N"]


def scores_of(groups: Sequence[Sequence[Row]], column: str = "log_px") -> Comparison:
    """Return the scores of some configurations on the same examples.

    A run whose examples cannot be read counts with its record's log p(x) and standard error.

    Args:
        groups: Single runs of one data contract (`elbo_bench.report.read.read_rows`), one group a configuration.
        column: Column of `examples.npz`.

    Raises:
        UsageError: A run has no such column, and the column is not `log_px`.
    """
    size = len(groups)
    examples: list[_Examples | None] = []
    means, uppers, errors, variances = (np.full(size, np.nan) for _ in range(4))
    for index, group in enumerate(groups):
        found = [_examples(row, column) for row in group]
        if column != "log_px" and any(each is None for each in found):
            raise UsageError(
                f"{group[0].folders[0]}: its table of examples has no column {column}; evaluate the run again"
            )
        examples.append(_mean_over_seeds(found))
        of_runs = [
            row.log_px if each is None else math.fsum(each.values.tolist()) / len(each.values)
            for row, each in zip(group, found, strict=True)
        ]
        with np.errstate(over="ignore"):
            means[index] = np.mean(of_runs)
            bias = np.mean([0.0 if each is None else (each.values - each.upper).mean() for each in found])
            uppers[index] = means[index] - bias
            if len(group) > 1:
                variances[index] = np.var(of_runs, ddof=1)
        alone = [row.se_test for row in group if row.se_test is not None]
        if len(alone) == len(group):
            errors[index] = math.fsum(alone) / len(group)
    # Without pairs the means are compared. A lower bound on log p(x) is then never evidence of a low log p(x).
    found_better = means[:, None] - uppers[None, :]
    lower = np.array([column == "log_px" and any(row.is_lower_bound for row in group) for group in groups])
    found_better = np.where(lower, np.minimum(found_better, 0.0), found_better)
    variance = errors[:, None] ** 2 + errors[None, :] ** 2
    to_first = variance[:, 0].copy()
    num_examples = int(groups[0][0].num_examples)
    paired = np.array([each is not None and num_examples > 1 for each in examples])
    for ids in {each.ids for each in examples if each is not None and num_examples > 1}:
        known = [(index, each) for index, each in enumerate(examples) if each is not None and each.ids == ids]
        indices = [index for index, _ in known]
        values, upper, resolved = (
            np.array([getattr(each, name) for _, each in known]) for name in ("values", "upper", "resolved")
        )
        own = np.ix_(indices, indices)
        found_better[own], variance[own] = evidence(values, upper, resolved)
        if indices[0] == 0:
            to_first[indices] = evidence(values, values[:1], np.ones_like(resolved[:1]))[1][:, 0]
    return Comparison(
        mean=means,
        evidence=found_better,
        variance=variance,
        variance_to_first=to_first,
        paired=paired,
        num_examples=num_examples,
        seed_variance=variances,
        num_seeds=np.array([float(len(group)) for group in groups]),
    )


def _mean_over_seeds(found: Sequence[_Examples | None]) -> _Examples | None:
    """Return the mean over seeds; None if a seed's examples are missing or differ from another seed's."""
    known = [each for each in found if each is not None]
    if len(known) < len(found) or len({each.ids for each in known}) > 1:
        return None
    return _Examples(
        ids=known[0].ids,
        values=np.mean([each.values for each in known], axis=0),
        upper=np.mean([each.upper for each in known], axis=0),
        resolved=np.all([each.resolved for each in known], axis=0),
    )


def _examples(row: Row, column: str) -> _Examples | None:
    """Return a column of a run's examples; None if it cannot be read or is damaged."""
    is_log_px = column == "log_px"
    try:
        columns = read_examples(Path(row.folders[0]), only=("id", column, *(_OF_LOG_PX if is_log_px else ())))
    except UsageError:
        return None
    ids = columns.pop("id", None)
    if ids is None or ids.dtype.kind not in "iu" or column not in columns:
        return None
    if any(each.shape != (row.num_examples,) for each in (ids, *columns.values())):
        return None
    if any(each.dtype.kind != "f" for each in columns.values()):
        return None
    order = np.argsort(ids, kind="stable")
    columns = {name: each[order].astype(np.float64) for name, each in columns.items()}
    values, bias, resolved = columns[column], np.zeros(len(ids)), np.ones(len(ids), dtype=bool)
    if is_log_px and row.truth != "exact":
        bias = np.minimum(columns.get("log_px_bias", bias), 0.0)
    if not (np.abs(values) < _LARGEST).all() or not (np.abs(bias) < _LARGEST).all():
        return None
    # A record and its examples are written together. Examples of another record are not used.
    if is_log_px and not math.isclose(values.mean(), row.log_px, rel_tol=1e-6, abs_tol=1e-6):
        return None
    if is_log_px and row.is_lower_bound:
        resolved = _resolved(columns)
    return _Examples(ids[order].astype(np.int64).tobytes(), values, values - bias, resolved)


def _resolved(columns: dict[str, np.ndarray]) -> Bool[np.ndarray, " N"]:
    """Return which estimates of log p(x) are resolved: they pass the gate, as most of the run's estimates do.

    The gate judges an estimate by the estimate's own draws. Where many examples fail it, q(z|x) is so poor that others
    pass since their draws missed the same mass. None is resolved then, nor where the columns for the gate are missing.
    """
    if not {"log_px_se_mc", "pareto_k"} <= set(columns):
        return np.zeros(len(columns["log_px"]), dtype=bool)
    from elbo_bench.evaluation.metrics import passes_gate  # the package imports torch, which takes seconds

    passing = passes_gate(
        columns["log_px_se_mc"], columns["pareto_k"], columns.get("missed"), columns.get("missed_errors")
    )
    return passing & bool(passing.mean() >= _LEAST_PASSING)
