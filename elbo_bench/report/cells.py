"""What stands in a cell of the leaderboard, above a table and below it; names are data, never markup."""

from collections.abc import Sequence

from elbo_bench.report.columns import COLUMNS, Column
from elbo_bench.report.leaderboard import TESTED
from elbo_bench.report.row import Row, is_lower_bound

_AGAINST_LOG_PX = {"log_px": ">=", "bits_per_dim": "<=", "elbo_gap": ">=", "bound_gap": ">="}
_INTERVALS = ("se_mc", "se_test")
_IN_WORDS = {"lower-bound-only": "lower bound"}


def cell(row: Row, column: Column) -> str:
    """Return one cell as text; a dash stands for an objective that is not evaluated, and `footnotes` say why.

    Where the truth is a lower bound only, log p(x) and the gaps against it carry '>=', and no interval; bits '<='. What
    another seed would change is shown all the same: it is the spread of that very number.
    """
    value = row[column.key]
    if column.key == "rank":
        return f"{value}=" if row["shared"] else str(value)
    if value is None and column.key in ("bound", "bound_gap") and row["scope"] == "batch":
        return "-"
    if value is None or (column.key in _INTERVALS and is_lower_bound(row)):
        return ""
    if column.digits is None:
        return _IN_WORDS.get(value, str(value))
    text = f"{value:.{column.digits}f}" if abs(value) < 1e7 else f"{value:.3g}"
    if column.key in _AGAINST_LOG_PX and is_lower_bound(row):
        return f"{_AGAINST_LOG_PX[column.key]} {text}"
    if column.key != "bound":
        return text
    return f"{text}*" if row["direction"] == "none" else f"{text}†" if row["weighted"] else text


def title(rows: Sequence[Row]) -> str:
    """Return the data contract of some rows in a line."""
    first = rows[0]
    return f"{first['data']}, {first['num_examples']} {first['split']} examples ({first['protocol']})"


def with_content(rows: Sequence[Row], columns: Sequence[Column] = COLUMNS) -> list[Column]:
    """Return the columns in which some row has something."""
    return [column for column in columns if any(cell(row, column) for row in rows)]


def said_once(rows: Sequence[Row]) -> list[str]:
    """Return the keys of columns that say the same in every row, and can stand above the table."""
    return [key for key in ("model", "seeds") if len({row[key] for row in rows}) == 1]


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return what a reader of some rows must know besides: how ranks were found, what marks mean, whose data differ."""
    notes = []
    if len(rows) > 1:
        notes.append(
            "=: a shared rank. t-tests of the differences on the same examples, and over seeds, find neither better "
            "(Welch, Holm; 5 % for the whole table)"
        )
        seeds = [row["num_seeds"] for row in rows]
        if max(seeds) == 1:
            notes.append("one seed each: ranks compare these trained models, and another seed may order them otherwise")
        elif min(seeds) == 1:
            notes.append("a row with one seed is given the spread over seeds that the other rows have in common")
        elif min(seeds) <= 3:
            notes.append("two or three seeds say little of their spread: only large differences are told apart by them")
        if any(is_lower_bound(row) for row in rows):
            notes.append(
                "a row with >= stands in the order of its lower bound; an example whose estimate does not pass the "
                "diagnostics never counts against its rank"
            )
        if unpaired := sum(row["paired"] is False for row in rows):
            notes.append(f"{unpaired} rows without usable examples are compared by their standard errors, not in pairs")
    if copies := rows[0]["copies"]:
        notes.append(f"copies of a run, of the same configuration and seed, count once: {copies} left out")
    if len(rows) > TESTED:
        notes.append(f"ranks are tested among the best {TESTED}; the rest follow in the order of their means")
    if any(row["scope"] == "batch" and row["bound"] is None for row in rows):
        notes.append("-: its value for an example depends on the whole batch, so it is trained with and not evaluated")
    if rows[0]["test_binarization"] == "resample":
        notes.append("each row is scored on test images drawn with its own seed, by which rows and seeds differ, too")
    return notes
