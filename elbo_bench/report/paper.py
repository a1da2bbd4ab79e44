"""Tables of papers, and the comparison of our results with them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from elbo_bench.config.catalogue import load_yaml
from elbo_bench.errors import UsageError
from elbo_bench.report.row import Row
from elbo_bench.report.scores import scores_of
from elbo_bench.report.ties import LEVEL, p_values

MARKS = {
    "V": "read in the named source",
    "V2": "quoted by a second source",
    "exact": "computed here, in closed form",
}
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Tier:
    """How much of a paper's protocol is run.

    Attributes:
        budget: The budget in words, compared with that of the paper.
        words: `key=value` overrides for each run.
    """

    budget: str
    words: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Cell:
    """One number of a paper.

    Attributes:
        name: Name of the cell.
        of: Keys of the configuration that select its runs among those of the sweep.
        metric: Name of the metric in a record; `-x` is x with its sign changed.
        value: The number in the paper; None if `exact` is given.
        exact: `log_px` or `active_units`: the value is computed as that of the maximum likelihood solution of
            probabilistic PCA.
        mark: How well the value is verified, see `MARKS`.
        tolerance: Largest difference of our number that counts as equal.
        tiers: Tiers that run the cell.
    """

    name: str
    of: dict[str, Any]
    metric: str = "log_px"
    value: FiniteFloat | None = None
    exact: Literal["log_px", "active_units"] | None = None
    mark: Literal["V", "V2", "exact"]
    tolerance: Annotated[FiniteFloat, Field(gt=0)]
    tiers: list[str]

    @property
    def column(self) -> str:
        """Name of the metric without its sign."""
        return self.metric.removeprefix("-")

    @property
    def sign(self) -> int:
        """Factor for the number in the record: 1 or -1."""
        return -1 if self.metric.startswith("-") else 1


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Ordering:
    """A claim of a paper: one of its numbers is larger than another one.

    Attributes:
        larger: Name of a cell.
        smaller: Name of another cell with the same metric.
        tiers: Tiers that check the claim.
    """

    larger: str
    smaller: str
    tiers: list[str]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Paper:
    """A paper's table.

    Attributes:
        title: Authors, year, title.
        address: URL of the paper.
        table: Number or name of the table, and the source of its numbers.
        sweep: The sweep file with the runs of the full protocol.
        deviates: Differences to the paper, a line each.
        tiers: Tiers by name.
        cells: Numbers of the table.
        orderings: Claims of the paper.
    """

    title: str
    address: str
    table: str
    sweep: str
    deviates: list[str]
    tiers: dict[str, Tier]
    cells: list[Cell]
    orderings: list[Ordering]

    def cell(self, name: str) -> Cell:
        """Return the cell with a name."""
        return next(each for each in self.cells if each.name == name)


def read_paper(path: Path) -> Paper:
    """Return the paper that a YAML file describes.

    Raises:
        UsageError: The file is not a valid paper.
    """
    try:
        paper = TypeAdapter(Paper).validate_python(load_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {key}: {first['msg']}") from None
    names = [cell.name for cell in paper.cells]
    named = [tier for cell in paper.cells for tier in cell.tiers]
    named += [tier for claim in paper.orderings for tier in claim.tiers]
    if unknown := next((tier for tier in named if tier not in paper.tiers), None):
        raise UsageError(f"{path}: no such tier: {unknown}")
    for cell in paper.cells:
        if names.count(cell.name) > 1:
            raise UsageError(f"{path}: two cells are named {cell.name}")
        if (cell.value is None) == (cell.exact is None):
            raise UsageError(f"{path}: {cell.name}: give either a value or exact")
    for claim in paper.orderings:
        if unknown := next((name for name in (claim.larger, claim.smaller) if name not in names), None):
            raise UsageError(f"{path}: an ordering names {unknown}, which is not a cell")
        if paper.cell(claim.larger).metric != paper.cell(claim.smaller).metric:
            raise UsageError(f"{path}: an ordering of {claim.larger}, {claim.smaller}: different metrics")
    return paper


def matches(wanted: Mapping[str, Any], cfg: Mapping[str, Any]) -> bool:
    """Return whether a configuration has the wanted values. A text stands for the name of a group."""
    for key, value in wanted.items():
        found = cfg.get(key)
        if isinstance(found, dict) and not isinstance(value, dict):
            found = found.get("name")
        if isinstance(value, dict) and isinstance(found, dict):
            if not matches(value, found):
                return False
        elif found != value:
            return False
    return True


@dataclasses.dataclass(frozen=True)
class Ours:
    """Our number for a cell: the mean over seeds, with its error.

    Attributes:
        value: Mean, in the unit and with the sign of the paper.
        error: Standard error over examples and seeds together; None where it is not known.
        lower_bound: Whether log p(x) is a lower bound only.
        seeds: Number of runs.
    """

    value: float
    error: float | None
    lower_bound: bool
    seeds: int


def ours(cell: Cell, results: Sequence[Mapping[str, Any]]) -> Ours | None:
    """Return our number for a cell from the records of its seeds; None if a record does not have the metric."""
    metrics = [result["metrics"].get(cell.column) for result in results]
    if not metrics or None in metrics:
        return None
    values = [metric["value"] for metric in metrics]
    count = len(values)
    mean = math.fsum(values) / count
    errors = [metric["se_test"] for metric in metrics]
    error = None if None in errors else math.fsum(errors) / count
    if count > 1:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
        error = math.hypot(error or 0.0, spread)
    below = any(result["truth"]["tier"] == "lower-bound-only" for result in results)
    return Ours(cell.sign * mean, error, below and cell.column == "log_px", count)


def verdict(cell: Cell, theirs: float, our: Ours | None) -> str:
    """Return the verdict on our number: `not run`, `within tolerance`, `better`, `worse`, `differs` or `undecided`.

    For log p(x) and for bounds a larger value is better. Other metrics only differ. If our log p(x) is a lower bound
    only and lies below theirs, the verdict is `undecided`.
    """
    if our is None:
        return "not run"
    difference = our.value - theirs
    if abs(difference) <= cell.tolerance:
        return "within tolerance"
    if cell.column not in ("log_px", "bound", "elbo_mc", "elbo_analytic") and not cell.column.startswith("L_"):
        return "differs"
    if difference * cell.sign > 0:
        return "better"
    return "undecided" if our.lower_bound else "worse"


def ordering(cell: Cell, larger: Sequence[Row], smaller: Sequence[Row]) -> tuple[str, float | None, float | None]:
    """Return the verdict on a claim, our difference, and its p-value: `holds`, `reversed`, `undecided`, `not run`.

    The verdict follows from a paired test on identical examples, and over seeds (`elbo_bench.report.ties`). It is
    `undecided` if the data contracts differ.

    Args:
        cell: The cell that is claimed to be larger.
        larger: Single runs of that cell, one a seed.
        smaller: Single runs of the other cell.
    """
    if not larger or not smaller:
        return "not run", None, None
    if len({row.identity.contract for row in [*larger, *smaller]}) > 1:
        return "undecided", None, None
    try:
        scores = scores_of([larger, smaller], cell.column)
    except UsageError:
        return "undecided", None, None
    difference = cell.sign * float(scores.mean[0] - scores.mean[1])
    p = float(p_values(scores)[0, 1])
    if p > LEVEL:
        return "undecided", difference, p
    return ("holds" if difference > 0 else "reversed"), difference, p
