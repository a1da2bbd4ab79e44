"""A leaderboard as tables on the terminal. Columns that do not fit are hidden and named; no text is cut."""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elbo_bench.report.cells import cell, footnotes, split_columns, with_content
from elbo_bench.report.row import Column, Row


def print_tables(parts: Sequence[Sequence[Row]], console: Console) -> None:
    """Print one table for each data contract, and the meaning of the columns."""
    for rows in parts:
        heading, shown = split_columns(rows)
        hidden = _hidden(rows, shown, console.width)
        console.print(Text(heading))
        console.print(_table(rows, [column for column in shown if column.key not in hidden]))
        for note in footnotes(rows):
            console.print(Text(f"  {note}"))
        if hidden:
            console.print(Text(f"  hidden in {console.width} columns: {', '.join(hidden)}; --format json has them all"))
    for column in with_content([row for rows in parts for row in rows]):
        if column.explained:
            console.print(Text(f"  {column.title}: {column.meaning}"))


def _hidden(rows: Sequence[Row], columns: Sequence[Column], width: int) -> list[str]:
    """Return the keys of the columns to hide so that the others fit into `width` characters."""
    widths = {
        column.key: 2 + max(cell_len(text) for text in (column.title, *(cell(row, column) for row in rows)))
        for column in columns
    }
    hidden: list[str] = []
    for column in sorted((each for each in columns if each.hide), key=lambda each: each.hide or 0):
        if sum(widths.values()) < width:  # the table has one more character at the left
            break
        del widths[column.key]
        hidden.append(column.key)
    return hidden


def _table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column.title, justify="left" if column.digits is None else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(row, column)) for column in columns))
    return table
