"""Configurations example by example: what paired comparisons are made of."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.report.ties import Scores
from elbo_bench.results.record import read_examples


def scores_of(groups: Sequence[Sequence[Row]], column: str = "log_px") -> Scores:
    """Return what is known of some configurations, each of which is the rows of its seeds, on the same examples.

    Of log p(x), a run whose examples cannot be read counts with its record's mean and error.

    Args:
        groups: Rows of one data contract (`elbo_bench.report.read.read_rows`).
        column: Of `examples.npz`.

    Raises:
        UsageError: A run has no such column, which is not log p(x).
    """
    number = groups[0][0]["num_examples"]
    ids: Shaped[np.ndarray, " N"] | None = None
    examples = np.full((len(groups), number), np.nan)
    means, errors, variances = [], [], []
    for index, group in enumerate(groups):
        columns, of_runs = [], []
        for row in group:
            found = _examples(row, column)
            if found is None and column != "log_px":
                raise UsageError(f"{row['folder']}: its examples have no {column}")
            if found is not None:
                ids = found[0] if ids is None else ids
                columns += [found[1]] if np.array_equal(ids, found[0]) else []
            of_runs.append(row["log_px"] if found is None else math.fsum(found[1].tolist()) / number)
        if len(columns) == len(group):
            examples[index] = np.mean(columns, axis=0)
        means.append(math.fsum(of_runs) / len(group))
        known = [row["se_test"] for row in group]
        errors.append(np.nan if None in known else math.fsum(known) / len(group))
        variances.append(float(np.var(of_runs, ddof=1)) if len(group) > 1 else np.nan)
    return Scores(
        mean=np.array(means),
        examples=examples,
        se_test=np.array(errors),
        seed_variance=np.array(variances),
        num_seeds=np.array([len(group) for group in groups], dtype=float),
    )


def _examples(row: Row, column: str) -> tuple[Shaped[np.ndarray, " N"], Float[np.ndarray, " N"]] | None:
    """Return the ids of a run's examples and a number of each, or None where they cannot be had."""
    try:
        columns = read_examples(Path(row["folder"]), only=("id", column))
    except UsageError:
        return None
    ids, values = columns.get("id"), columns.get(column)
    shape = (row["num_examples"],)
    if ids is None or values is None or ids.shape != shape or values.shape != shape:
        return None
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        return None
    # A record and its examples are written together: those of another record are no part of it.
    if column == "log_px" and not math.isclose(values.mean(), row["log_px"], rel_tol=1e-6, abs_tol=1e-6):
        return None
    return ids, values
