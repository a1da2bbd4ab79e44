"""The leaderboard: configurations ranked by test log p(x), within one data contract and never by tightness alone."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from elbo_bench.report.row import COLUMNS, Row, short
from elbo_bench.report.scores import scores_of
from elbo_bench.report.ties import better, to_first

TESTED = 200
"""Number of configurations of a data contract, the best ones, that are compared in pairs."""


def leaderboard(rows: Sequence[Row], *, each_run: bool = False) -> list[list[Row]]:
    """Return the configurations of each data contract, ranked by log p(x), best first; contracts by name.

    Runs that differ in nothing but their seed are one configuration. Its row has the means of the runs and three
    errors of log p(x): of the samples (`se_mc`), of the finite set of examples (`se_test`), of the seeds (`se_seeds`).
    The rank is 1 + the number of configurations that are better beyond doubt (`elbo_bench.report.ties`), and at least
    the rank of each row above. A row whose log p(x) is a lower bound only stands in the order of that bound, and can
    have a smaller rank than a row above. Rows whose difference may be noise share a rank. Within a contract bits per
    dimension have the same order as log p(x).

    Args:
        rows: Single runs (`elbo_bench.report.read.read_rows`).
        each_run: Rank runs rather than configurations.
    """
    contracts: dict[str, list[Row]] = {}
    for row in rows:
        contracts.setdefault(row.identity.contract, []).append(row)
    ranked = []
    for _, runs in sorted(contracts.items()):
        labelled = _with_model_labels(runs)
        groups = [[row] for row in labelled] if each_run else by_configuration(labelled)
        copies = len(labelled) - sum(map(len, groups))
        merged = _with_settings([_merged(group, copies) for group in groups])
        order = sorted(range(len(merged)), key=lambda index: (-merged[index].log_px, merged[index].run_ids))
        ranked.append(_ranked([merged[index] for index in order], [groups[index] for index in order]))
    return ranked


def _with_model_labels(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose model names the keys that differ: `mlp posterior=maf` where other rows have another one."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for key, value in row.identity.model_keys.items():
            seen.setdefault((row.model, key), set()).add(str(value))
    labelled = []
    for row in rows:
        keys = row.identity.model_keys
        words = [f"{key.removesuffix('.name')}={keys[key]}" for key in keys if len(seen[row.model, key]) > 1]
        model = short(" ".join([row.model, *words]))
        labelled.append(dataclasses.replace(row, model=model) if words else row)
    return labelled


def _with_settings(rows: Sequence[Row]) -> list[Row]:
    """Return rows with the settings that differ among rows of the same objective and model: `optimizer.lr=0.01`."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault((row.objective, row.model), []).append(row.identity.settings)
    differ: dict[str, None] = {}
    for group in alike.values():
        for key in dict.fromkeys(key for own in group for key in own):
            if len({str(own.get(key)) for own in group}) > 1:
                differ[key] = None
    texts = [
        " ".join(f"{key}={own[key]}" for key in differ if key in own) for own in (r.identity.settings for r in rows)
    ]
    return [dataclasses.replace(row, settings=short(text) or None) for row, text in zip(rows, texts, strict=True)]


def by_configuration(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the runs of each configuration, one for each seed: a copy of a run is no replicate."""
    groups: dict[str, dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(row.identity.group, {}).setdefault(row.identity.seed, row)
    return [[by_seed[seed] for seed in sorted(by_seed)] for by_seed in groups.values()]


def _merged(runs: Sequence[Row], copies: int) -> Row:
    """Return one row for runs that differ in their seed."""
    number = len(runs)
    spread: dict[str, float | None] = {"log_px": None, "elbo_gap": None}
    for key in spread:
        values = [getattr(run, key) for run in runs]
        if number > 1 and None not in values:
            with np.errstate(over="ignore"):
                deviation = float(np.std(values, ddof=1))
            spread[key] = deviation if math.isfinite(deviation) else None
    changes = {column.key: column.merge([getattr(run, column.key) for run in runs]) for column in COLUMNS}
    changes |= {
        "seeds": _seeds([run.identity.seed for run in runs]),
        "num_seeds": number,
        "run_ids": [run_id for run in runs for run_id in run.run_ids],
        "folders": [folder for run in runs for folder in run.folders],
        "log_px_sd": spread["log_px"],
        "elbo_gap_sd": spread["elbo_gap"],
        "se_seeds": None if spread["log_px"] is None else spread["log_px"] / math.sqrt(number),
        "copies": copies,
    }
    return dataclasses.replace(runs[0], **changes)


def _seeds(seeds: Sequence[int]) -> str:
    """Return seeds in a few characters: `0`, `0-4`, `0, 3, 7`."""
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds[:4])) + (f" ... ({len(seeds)})" if len(seeds) > 4 else "")


def _ranked(rows: Sequence[Row], groups: Sequence[Sequence[Row]]) -> list[Row]:
    """Return rows with their ranks. Only the best `TESTED` of them can be tied.

    Args:
        rows: Configurations, in the order of log p(x).
        groups: The runs of each configuration.
    """
    changes: list[dict[str, Any]] = [{"rank": index + 1} for index in range(len(rows))]
    tested = min(len(rows), TESTED)
    if tested > 1:
        scores = scores_of(groups[:tested])
        wins = better(scores)
        difference, error = to_first(scores)
        worst = 1
        for index, row in enumerate(rows[:tested]):
            rank = 1 + int(wins[:, index].sum())
            # A row with a large error is not ranked above a row with a better mean and a small error. A lower bound
            # keeps its rank, because its position in the table depends on its bias.
            if not row.is_lower_bound:
                rank = max(rank, worst)
            worst = max(rank, worst)
            changes[index] = {
                "rank": rank,
                "behind": float(difference[index]),
                "behind_se": float(error[index]) if index and math.isfinite(error[index]) else None,
                "paired": bool(scores.paired[index]),
            }
    counts = collections.Counter(change["rank"] for change in changes)
    return [
        dataclasses.replace(row, **change, shared=counts[change["rank"]] > 1)
        for row, change in zip(rows, changes, strict=True)
    ]
