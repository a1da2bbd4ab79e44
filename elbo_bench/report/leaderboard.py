"""The leaderboard: configurations ranked by test log p(x), never across data contracts and never by tightness alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from elbo_bench.report.row import Row, is_lower_bound, short
from elbo_bench.report.scores import scores_of
from elbo_bench.report.ties import better, to_first

TESTED = 200
"""Configurations of a data contract, the best ones, that are compared pair by pair; the rest follow in their order."""

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
_WEAKEST_FIRST = ("lower-bound-only", "importance", "sandwiched", "exact")
_OF_A_RUN = ("seed", "run_id", "folder", "group", "contract", "model_keys", "settings")


def leaderboard(rows: Sequence[Row], *, each_run: bool = False) -> list[list[Row]]:
    """Return the configurations of each data contract, ranked by log p(x), best first; contracts by name.

    Runs that differ in nothing but their seed are one configuration, and a row with their means and three errors: of
    the samples (`se_mc`), of the finite set of examples (`se_test`), of the seeds (`se_seeds`). Its rank is 1 + the
    number of configurations that are better beyond doubt (`elbo_bench.report.ties`), and at least the rank of each row
    above. A row whose log p(x) is a lower bound only stands in the order of that bound, and can have a smaller rank
    than a row above. Rows whose difference may be noise share a rank. Within a contract bits per dimension have the
    same order as log p(x).

    Args:
        rows: Of single runs (`elbo_bench.report.read.read_rows`).
        each_run: Rank runs rather than configurations.
    """
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault(row["contract"], []).append(row)
    ranked = []
    for key in sorted(parts):
        labelled = _model_labels(parts[key])
        groups = [[row] for row in labelled] if each_run else by_configuration(labelled)
        merged = [_together(group) for group in groups]
        _tell_apart(merged, [group[0]["settings"] for group in groups])
        copies = len(labelled) - sum(map(len, groups))
        for row in merged:
            row["copies"] = copies
        order = sorted(range(len(merged)), key=lambda index: (-merged[index]["log_px"], merged[index]["run_ids"]))
        merged, groups = [merged[index] for index in order], [groups[index] for index in order]
        _rank(merged, groups)
        ranked.append(merged)
    return ranked


def _model_labels(rows: Sequence[Row]) -> list[Row]:
    """Say of each model what tells it apart: `mlp posterior=maf` where other rows have another posterior."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for key, value in row["model_keys"].items():
            seen.setdefault((row["model"], key), set()).add(str(value))
    labelled = []
    for row in rows:
        keys = row["model_keys"]
        words = [f"{key.removesuffix('.name')}={keys[key]}" for key in keys if len(seen[row["model"], key]) > 1]
        labelled.append({**row, "model": short(" ".join([row["model"], *words]))} if words else row)
    return labelled


def _tell_apart(merged: Sequence[Row], settings: Sequence[dict[str, Any]]) -> None:
    """Say what else tells rows apart where some have the same objective and model: `optimizer.lr=0.01`, or nothing."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row, own in zip(merged, settings, strict=True):
        alike.setdefault((row["objective"], row["model"]), []).append(own)
    differ: dict[str, None] = {}
    for group in alike.values():
        for key in dict.fromkeys(key for own in group for key in own):
            if len({str(own.get(key)) for own in group}) > 1:
                differ[key] = None
    for row, own in zip(merged, settings, strict=True):
        row["settings"] = short(" ".join(f"{key}={own[key]}" for key in differ if key in own)) or None


def by_configuration(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the runs of each configuration, one for each seed: a copy of a run is no replicate."""
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], {}).setdefault(row["seed"], row)
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in groups.values()]


def _together(rows: Sequence[Row]) -> Row:
    """Return one row for runs that differ in their seed.

    A number that some of the runs lack is missing in their mean, and one lower bound makes the mean a lower bound.
    """
    first, number = rows[0], len(rows)
    merged: Row = {
        "rank": 0,
        "shared": False,
        "behind": None,
        "behind_se": None,
        "paired": None,
        **{key: first[key] for key in first if key not in _OF_A_RUN},
    }
    merged |= {"seeds": _seeds([row["seed"] for row in rows]), "num_seeds": number}
    merged |= {"run_ids": [row["run_id"] for row in rows], "folders": [row["folder"] for row in rows]}
    tiers = {row["truth"] for row in rows}
    merged["truth"] = next((tier for tier in _WEAKEST_FIRST if tier in tiers), first["truth"])
    for key in _MEANS:
        values = [row[key] for row in rows]
        merged[key] = None if None in values else values[0] if number == 1 else math.fsum(values) / number
    mc, test = ([row[key] for row in rows] for key in ("se_mc", "se_test"))
    merged["se_mc"] = None if None in mc else math.hypot(*mc) / number
    # All seeds share the same examples, so their test-set errors are averaged, not divided by the root of the number.
    merged["se_test"] = None if None in test else math.fsum(test) / number
    for key in ("log_px", "elbo_gap"):
        known = merged[key] is not None and number > 1
        with np.errstate(over="ignore"):
            spread = float(np.std([row[key] for row in rows], ddof=1)) if known else math.nan
        merged[f"{key}_sd"] = spread if math.isfinite(spread) else None
    merged["se_seeds"] = None if merged["log_px_sd"] is None else merged["log_px_sd"] / math.sqrt(number)
    return merged


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds in a few characters: `0`, `0-4`, `0, 3, 7`."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds[:4])) + (f" ... ({len(seeds)})" if len(seeds) > 4 else "")


def _rank(merged: Sequence[Row], groups: Sequence[Sequence[Row]]) -> None:
    """Give ranks to rows in their order. Only the best `TESTED` of them can be tied."""
    tested = min(len(merged), TESTED)
    if tested > 1:
        scores = scores_of(groups[:tested])
        wins = better(scores)
        difference, error = to_first(scores)
        worst = 1
        for index, row in enumerate(merged[:tested]):
            row["rank"] = 1 + int(wins[:, index].sum())
            # A row with a large error is not ranked above a row with a better mean and a small error. A lower bound
            # keeps its rank, because its place in the table depends on its bias.
            if not is_lower_bound(row):
                row["rank"] = max(row["rank"], worst)
            worst = max(row["rank"], worst)
            row["behind"] = float(difference[index])
            row["behind_se"] = float(error[index]) if index and math.isfinite(error[index]) else None
            row["paired"] = bool(scores.paired[index])
    for index, row in enumerate(merged):
        row["rank"] = row["rank"] or index + 1
    counts: dict[int, int] = {}
    for row in merged:
        counts[row["rank"]] = counts.get(row["rank"], 0) + 1
    for row in merged:
        row["shared"] = counts[row["rank"]] > 1
