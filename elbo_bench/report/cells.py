"""Texts of a leaderboard: its cells, the heading above a table and the footnotes below."""

from collections.abc import Sequence

from elbo_bench.report.leaderboard import TESTED
from elbo_bench.report.row import COLUMNS, Column, Row


def cell(row: Row, column: Column) -> str:
    """Return one cell as text. A dash stands for an objective that is not evaluated; `footnotes` say why.

    Where log p(x) is a lower bound only, log p(x) and the gaps carry '>=', bits per dimension '<=', and there is no
    interval. The error over seeds is shown all the same: it is the spread of the lower bound itself.
    """
    value = getattr(row, column.key)
    if column.key == "rank":
        return f"{value}=" if row.shared else str(value)
    if value is None and column.key in ("bound", "bound_gap") and row.scope == "batch":
        return "-"
    if value is None or (column.is_interval and row.is_lower_bound):
        return ""
    if column.digits is None:
        return "lower bound" if column.key == "truth" and row.is_lower_bound else str(value)
    text = f"{value:.{column.digits}f}" if abs(value) < 1e7 else f"{value:.3g}"
    if column.bias is not None and row.is_lower_bound:
        return f"{'>=' if column.bias == 'low' else '<='} {text}"
    if column.key != "bound":
        return text
    return f"{text}*" if row.direction == "none" else f"{text}†" if row.weighted else text


def title(rows: Sequence[Row]) -> str:
    """Return the data contract of some rows in a line."""
    first = rows[0]
    return f"{first.data}, {first.num_examples} {first.split} examples ({first.protocol})"


def with_content(rows: Sequence[Row]) -> list[Column]:
    """Return the columns in which some row has a value."""
    return [column for column in COLUMNS if any(cell(row, column) for row in rows)]


def split_columns(rows: Sequence[Row]) -> tuple[str, list[Column]]:
    """Return a heading, and the columns below it: a model or seeds that all rows share stand in the heading."""
    same = [key for key in ("model", "seeds") if len({getattr(row, key) for row in rows}) == 1]
    heading = ", ".join([title(rows), *(f"{key} {getattr(rows[0], key)}" for key in same)])
    return heading, [column for column in with_content(rows) if column.key not in same]


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return the notes below a table: how ranks were found, what marks mean, and where data differ between rows."""
    notes = []
    if len(rows) > 1:
        notes.append(
            "=: a shared rank. t-tests of the differences on the same examples, and over seeds, find neither better "
            "(Welch, Holm; 5 % for all comparisons of a table)"
        )
        seeds = [row.num_seeds for row in rows]
        if max(seeds) == 1:
            notes.append("one seed each: ranks compare these trained models, and another seed may give another order")
        elif min(seeds) == 1:
            notes.append("a row with one seed gets the spread over seeds that is pooled from the other rows")
        elif min(seeds) <= 3:
            notes.append("the spread of two or three seeds is known poorly: only large differences are significant")
        if any(row.is_lower_bound for row in rows):
            notes.append(
                "a row with >= stands in the order of its lower bound; an example whose estimate does not pass the "
                "diagnostics never counts against its rank"
            )
        if unpaired := sum(row.paired is False for row in rows):
            notes.append(f"{unpaired} rows without usable examples are compared by their standard errors, not in pairs")
    if copies := rows[0].copies:
        notes.append(f"runs with the same configuration and seed count once: {copies} copies excluded")
    if len(rows) > TESTED:
        notes.append(f"ranks are tested among the best {TESTED}; the rest follow in the order of their means")
    if any(row.scope == "batch" and row.bound is None for row in rows):
        notes.append("-: the objective of an example depends on its batch, so it is not evaluated")
    if rows[0].test_binarization == "resample":
        notes.append("each run is scored on test images drawn with its own seed, so rows and seeds differ by them too")
    return notes
