"""A leaderboard as tables on the terminal; what does not fit is said, and nothing is cut."""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elbo_bench.report.cells import cell, footnotes, said_once, title, with_content
from elbo_bench.report.columns import COLUMNS, Column
from elbo_bench.report.row import Row

_EXPLAINED = (
    "log_px",
    "se_mc",
    "se_test",
    "se_seeds",
    "behind",
    "bits_per_dim",
    "elbo_gap",
    "bound",
    "bound_gap",
    "rate",
)
_HIDDEN_FIRST = (
    *("seconds", "ess", "truth", "distortion", "active_units", "se_mc"),
    *("bound", "elbo", "behind_se", "behind", "rate"),
)
"""Columns that a narrow terminal does without, in this order; JSON and CSV have them all."""


def print_tables(parts: Sequence[Sequence[Row]], console: Console) -> None:
    """Print one table for each data contract, and what its columns are."""
    for rows in parts:
        same = said_once(rows)
        heading = ", ".join([title(rows), *(f"{key} {rows[0][key]}" for key in same)])
        shown = [column for column in with_content(rows) if column.key not in same]
        hidden = _hidden(rows, shown, console.width)
        console.print(Text(heading))
        console.print(_table(rows, [column for column in shown if column.key not in hidden]))
        for note in footnotes(rows):
            console.print(Text(f"  {note}"))
        if hidden:
            console.print(Text(f"  hidden in {console.width} columns: {', '.join(hidden)}; --format json has them all"))
    for column in with_content([row for rows in parts for row in rows], COLUMNS):
        if column.key in _EXPLAINED:
            console.print(Text(f"  {column.title}: {column.meaning}"))


def _hidden(rows: Sequence[Row], columns: Sequence[Column], width: int) -> list[str]:
    """Return the columns that must go for the rest to fit."""
    widths = {
        column.key: 2 + max(cell_len(text) for text in (column.title, *(cell(row, column) for row in rows)))
        for column in columns
    }
    hidden: list[str] = []
    for key in _HIDDEN_FIRST:
        if sum(widths.values()) < width:  # one more for the left edge
            break
        if widths.pop(key, None) is not None:
            hidden.append(key)
    return hidden


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="left" if column.digits is None else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(row, column)) for column in columns))
    return table
