"""What plots draw of one data contract: every configuration as a point, and the best ones in full."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.results.record import RESULT, read_examples, read_result

MOST = 8
"""Configurations that are told apart by colour and shape: eyes, and colour-blind eyes, can do no more."""

OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class Series:
    """A configuration that is drawn in full.

    Attributes:
        label: Its name in the plots of one contract, which no other one there has.
        row: Its row of the leaderboard.
        results: The records of its seeds.
    """

    label: str
    row: Row
    results: list[dict[str, Any]]

    def validation(self) -> list[tuple[int, dict[str, float]]]:
        """Return what was measured during training: the step, and metrics that are numbers; all seeds together."""
        found = []
        for result in self.results:
            measured = result["checkpoint"].get("validation")
            for each in measured if isinstance(measured, list) else []:
                if isinstance(each, dict) and _is_number(each.get("step")) and isinstance(each.get("metrics"), dict):
                    numbers = {key: value for key, value in each["metrics"].items() if _is_number(value)}
                    found.append((int(each["step"]), numbers))
        return found

    def mean(self, name: str, error: str | None = None) -> float | None:
        """Return the mean over seeds of a metric's value, or of an error of it; None if one lacks it."""
        values = [result["metrics"].get(name, {}).get(error or "value") for result in self.results]
        if not values or None in values:
            return None
        return math.fsum(values) / len(values) if error is None else math.hypot(*values) / len(values)

    def sample_sizes(self) -> list[int]:
        """Return the K of the bounds L_K that every seed has, ascending."""
        names = set.intersection(*(set(result["metrics"]) for result in self.results))
        return sorted(int(name[2:]) for name in names if re.fullmatch(r"L_[1-9][0-9]{0,8}", name))

    @functools.cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """The columns of the first seed's examples; empty where they cannot be read."""
        try:
            return read_examples(Path(self.row["folders"][0]), only=("elbo_gap",))
        except UsageError:
            return {}

    def evaluations(self, name: str) -> list[dict[str, Any]]:
        """Return of each seed its further evaluation of a name, of the run's own weights; if several, the largest."""
        found = []
        for folder, run in zip(self.row["folders"], self.results, strict=True):
            own = []
            for place in sorted(Path(folder).glob(f"evaluations/*/{RESULT}")):
                try:
                    result = read_result(place.parent)
                except UsageError:
                    continue
                evaluation = result["cfg"].get("evaluation")
                same = result["checkpoint"].get("weights_sha256") == run["checkpoint"].get("weights_sha256")
                if same and isinstance(evaluation, dict) and evaluation.get("name") == name:
                    own.append(result)
            found += sorted(own, key=lambda result: -result["data"]["num_examples"])[:1]
        return found


@dataclasses.dataclass(frozen=True)
class Shown:
    """One data contract.

    Attributes:
        rows: Its configurations, ranked.
        series: The best of them.
    """

    rows: Sequence[Row]
    series: Sequence[Series]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Shown":
        """Read the records of the best configurations again; what has gone meanwhile is left out."""
        names = _labels(rows[:MOST], several_models=len({row["model"] for row in rows}) > 1)
        series = []
        for label, row in zip(names, rows, strict=False):
            try:
                series.append(Series(label, row, [read_result(Path(folder)) for folder in row["folders"]]))
            except UsageError:
                continue
        return cls(rows, series)

    @property
    def labels(self) -> list[str]:
        """The labels of the series, best first."""
        return [each.label for each in self.series]

    def points(self) -> list[dict[str, Any]]:
        """Return every row as a point: its label, or `others`, its name and numbers."""
        labels = {id(each.row): each.label for each in self.series}
        return [
            {
                "label": labels.get(id(row), OTHERS),
                "name": ", ".join(filter(None, [row["objective"], row["model"], row["settings"]])),
                "rank": row["rank"],
                **{key: row[key] for key in ("log_px", "elbo", "elbo_gap", "rate", "distortion")},
            }
            for row in self.rows
        ]


def _labels(rows: Sequence[Row], *, several_models: bool) -> list[str]:
    """Return a name for each row that no other one has."""
    names = [
        ", ".join([row["objective"], *([row["model"]] if several_models else []), *filter(None, [row["settings"]])])
        for row in rows
    ]
    labels: list[str] = []
    for number, name in enumerate(names, 1):
        label = name if names.count(name) == 1 else f"{name} ({number})"
        while label in labels:  # another one is named so by chance
            label += "'"
        labels.append(label)
    return labels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
