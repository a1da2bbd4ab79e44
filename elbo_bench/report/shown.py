"""The data of the plots of one data contract: every configuration as a point, the best ones in detail."""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.results.further import further_results
from elbo_bench.results.record import Record, read_examples, read_result

MOST = 8
"""Number of configurations that have a colour and a shape. More are hard to distinguish, above all colour-blind."""

OTHERS = "others"


@dataclasses.dataclass(frozen=True)
class Series:
    """A configuration that is drawn in detail.

    Attributes:
        label: Unique name in the plots of one contract.
        row: Its row of the leaderboard.
        results: The records of its seeds.
    """

    label: str
    row: Row
    results: list[Record]

    def validation(self) -> list[tuple[int, dict[str, float]]]:
        """Return the validation metrics of all seeds together: pairs of a step and the metrics that are numbers."""
        found = []
        for result in self.results:
            measured = result["checkpoint"].get("validation")
            for each in measured if isinstance(measured, list) else []:
                if isinstance(each, dict) and _is_number(each.get("step")) and isinstance(each.get("metrics"), dict):
                    numbers = {key: value for key, value in each["metrics"].items() if _is_number(value)}
                    found.append((int(each["step"]), numbers))
        return found

    def mean(self, name: str, part: Literal["value", "se_mc"] = "value") -> float | None:
        """Return the mean over seeds of a metric, or its Monte Carlo error; None if a seed has none."""
        parts = [result["metrics"][name][part] for result in self.results if name in result["metrics"]]
        values = [value for value in parts if value is not None]
        if not values or len(values) < len(self.results):
            return None
        return (math.fsum(values) if part == "value" else math.hypot(*values)) / len(values)

    def sample_sizes(self) -> list[int]:
        """Return the K of the bounds L_K that every seed has, ascending."""
        names = set.intersection(*(set(result["metrics"]) for result in self.results))
        return sorted(int(name[2:]) for name in names if re.fullmatch(r"L_[1-9][0-9]{0,8}", name))

    @functools.cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """The per-example columns of the run with the first seed, by name; empty if they cannot be read."""
        try:
            return read_examples(Path(self.row.folders[0]), only=("elbo_gap",))
        except UsageError:
            return {}

    def evaluations(self, name: str) -> list[Record]:
        """Return the record of the further evaluation `name` of each seed that has one; the largest if several."""
        found = []
        for folder in self.row.folders:
            own = [
                result
                for result in further_results(Path(folder))
                if isinstance(evaluation := result["cfg"].get("evaluation"), dict) and evaluation.get("name") == name
            ]
            found += sorted(own, key=lambda result: -result["data"]["num_examples"])[:1]
        return found


@dataclasses.dataclass(frozen=True)
class Shown:
    """One data contract.

    Attributes:
        rows: Ranked configurations.
        series: The best of them, in detail.
    """

    rows: Sequence[Row]
    series: Sequence[Series]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Shown":
        """Read the records of the best configurations again. A record that is gone is skipped."""
        names = _labels(rows[:MOST], several_models=len({row.model for row in rows}) > 1)
        series = []
        for label, row in zip(names, rows, strict=False):
            try:
                series.append(Series(label, row, [read_result(Path(folder)) for folder in row.folders]))
            except UsageError:
                continue
        return cls(rows, series)

    @property
    def labels(self) -> list[str]:
        """The labels of the series, best first."""
        return [each.label for each in self.series]

    def points(self) -> list[dict[str, Any]]:
        """Return every row as a point: its label or `others`, its name, and its metrics."""
        labels = {id(each.row): each.label for each in self.series}
        return [
            {
                "label": labels.get(id(row), OTHERS),
                "name": ", ".join(filter(None, [row.objective, row.model, row.settings])),
                "rank": row.rank,
                **{key: getattr(row, key) for key in ("log_px", "elbo", "elbo_gap", "rate", "distortion")},
            }
            for row in self.rows
        ]


def _labels(rows: Sequence[Row], *, several_models: bool) -> list[str]:
    """Return a unique name for each row."""
    names = [
        ", ".join([row.objective, *([row.model] if several_models else []), *filter(None, [row.settings])])
        for row in rows
    ]
    labels: list[str] = []
    for number, name in enumerate(names, 1):
        label = name if names.count(name) == 1 else f"{name} ({number})"
        while label in labels:  # another row has this name by chance
            label += "'"
        labels.append(label)
    return labels


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
