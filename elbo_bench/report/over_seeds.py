"""Runs that differ in nothing but their seed as one row: means, and how far the seed of training moves them."""

import math
from collections.abc import Sequence

from elbo_bench.report.leaderboard import COLUMNS, Column, Row

_SPREAD = ("log_px", "elbo_gap")
_MEANS = (
    "log_px",
    "bits_per_dim",
    "elbo",
    "elbo_gap",
    "bound",
    "bound_gap",
    "rate",
    "distortion",
    "active_units",
    "ess",
    "seconds",
)
_PLAIN = {column.key: column for column in COLUMNS}

SEED_COLUMNS = (
    *(_PLAIN[key] for key in ("rank", "objective", "model")),
    Column("seeds", "seeds", "Runs with different seeds that the row is the mean of", 0),
    _PLAIN["log_px"],
    Column("log_px_sd", "sd", "Standard deviation of log p(x) over the seeds of training", 2),
    *(_PLAIN[key] for key in ("bits_per_dim", "elbo", "elbo_gap")),
    Column("elbo_gap_sd", "sd", "Standard deviation of the ELBO gap over the seeds of training", 2),
    *(_PLAIN[key] for key in ("bound", "bound_gap", "rate", "distortion")),
    Column("active_units", "active", _PLAIN["active_units"].meaning, 1),
    *(_PLAIN[key] for key in ("ess", "seconds")),
)
"""The columns of such rows; the error over the finite set of examples is that of all seeds together, and not shown."""


def over_seeds(parts: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Return the rows of each data contract with the seeds of one configuration put together, ranked by log p(x).

    A number that some of the runs lack is missing in their mean. One lower bound makes the mean a lower bound.
    """
    return [_ranked([_together(rows) for rows in _groups(part)]) for part in parts]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the runs of each configuration, one for each seed: a copy of a run is no replicate."""
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], {}).setdefault(row["seed"], row)
    return [list(by_seed.values()) for by_seed in groups.values()]


def _together(rows: Sequence[Row]) -> Row:
    """Return one row for runs that differ in their seed."""
    merged: Row = {key: value for key, value in rows[0].items() if key not in ("seed", "run_id", "folder", "log_px_se")}
    merged |= {"seeds": len(rows), "run_ids": [row["run_id"] for row in rows]}
    if any(row["truth"] == "lower-bound-only" for row in rows):
        merged["truth"] = "lower-bound-only"
    for key in _MEANS:
        values = [row[key] for row in rows]
        merged[key] = None if None in values else math.fsum(values) / len(values)
    for key in _SPREAD:
        values, mean = [row[key] for row in rows], merged[key]
        known = mean is not None and len(values) > 1
        merged[f"{key}_sd"] = (
            math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) if known else None
        )
    return merged


def _ranked(rows: list[Row]) -> list[Row]:
    rows.sort(key=lambda row: (-row["log_px"], row["group"]))
    for rank, row in enumerate(rows, 1):
        row["rank"] = rank
    return rows
