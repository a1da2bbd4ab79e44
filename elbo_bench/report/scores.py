"""Configurations example by example: what paired comparisons are made of."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.report.ties import Scores
from elbo_bench.results.record import read_examples

_LARGEST = 1e100
"""A number beyond it is no log-density, and its square cannot be written down."""


def scores_of(groups: Sequence[Sequence[Row]], column: str = "log_px") -> Scores:
    """Return what is known of some configurations, each of which is the rows of its seeds, on the same examples.

    Of log p(x), a run whose examples cannot be read counts with its record's mean and error.

    Args:
        groups: Rows of one data contract (`elbo_bench.report.read.read_rows`).
        column: Of `examples.npz`.

    Raises:
        UsageError: A run has no such column, which is not log p(x).
    """
    size = len(groups)
    examples: list[Float[np.ndarray, " N"] | None] = []
    ids: list[bytes | None] = []
    means, errors, variances = np.empty(size), np.full(size, np.nan), np.full(size, np.nan)
    for index, group in enumerate(groups):
        found = [_examples(row, column) for row in group]
        if column != "log_px" and any(each is None for each in found):
            raise UsageError(f"{group[0]['folder']}: its examples have no {column}")
        of_runs = [
            row["log_px"] if each is None else math.fsum(each[1].tolist()) / len(each[1])
            for row, each in zip(group, found, strict=True)
        ]
        known = [each for each in found if each is not None]
        alike = len(known) == len(group) and len({each[0] for each in known}) == 1
        examples.append(np.mean([each[1] for each in known], axis=0) if alike else None)
        ids.append(known[0][0] if alike else None)
        with np.errstate(over="ignore"):
            means[index] = np.mean(of_runs)
            if len(group) > 1:
                variances[index] = np.var(of_runs, ddof=1)
        if None not in (alone := [row["se_test"] for row in group]):
            errors[index] = math.fsum(alone) / len(group)
    return Scores(
        mean=means,
        covariance=_covariance(examples, ids),
        num_examples=int(groups[0][0]["num_examples"]),
        se_test=errors,
        seed_variance=variances,
        num_seeds=np.array([float(len(group)) for group in groups]),
    )


def _covariance(
    examples: Sequence[Float[np.ndarray, " N"] | None], ids: Sequence[bytes | None]
) -> Float[np.ndarray, "R R"]:
    """Return the covariance over the examples of those configurations that have the same ones, NaN elsewhere."""
    covariance = np.full((len(examples), len(examples)), np.nan)
    for each in dict.fromkeys(ids):
        indices = [index for index, own in enumerate(ids) if own == each and own is not None]
        values = np.array([examples[index] for index in indices])
        if indices and values.shape[1] > 1:
            centred = values - values.mean(axis=1, keepdims=True)
            covariance[np.ix_(indices, indices)] = centred @ centred.T / (values.shape[1] - 1)
    return covariance


def _examples(row: Row, column: str) -> tuple[bytes, Float[np.ndarray, " N"]] | None:
    """Return a run's examples, as their ids in order, and a number of each; None where they cannot be had."""
    try:
        columns = read_examples(Path(row["folder"]), only=("id", column))
    except UsageError:
        return None
    ids, values = columns.get("id"), columns.get(column)
    shape = (row["num_examples"],)
    if ids is None or values is None or ids.shape != shape or values.shape != shape:
        return None
    if values.dtype.kind != "f" or ids.dtype.kind not in "iu" or not (np.abs(values) < _LARGEST).all():
        return None
    # A record and its examples are written together: those of another record are no part of it.
    if column == "log_px" and not math.isclose(values.mean(), row["log_px"], rel_tol=1e-6, abs_tol=1e-6):
        return None
    order = np.argsort(ids, kind="stable")
    return ids[order].astype(np.int64).tobytes(), values[order].astype(np.float64)
