"""A leaderboard as a table on the terminal, JSON, CSV or Markdown; names in it are data, never markup."""

import csv
import io
import json
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from elbo_bench.report.leaderboard import COLUMNS, Column, Row

_AGAINST_LOG_PX = {"log_px": ">=", "bits_per_dim": "<=", "elbo_gap": ">=", "bound_gap": ">="}


def cell(row: Row, column: Column) -> str:
    """Return one cell as text; a dash stands for an objective that is not evaluated, and `footnotes` say why.

    Where the truth is a lower bound only, log p(x) and the gaps against it carry '>=', and no interval; bits '<='.
    """
    value = row[column.key]
    lower_bound_only = row["truth"] == "lower-bound-only"
    if value is None and column.key in ("bound", "bound_gap") and row["scope"] == "batch":
        return "-"
    if value is None or (column.key == "log_px_se" and lower_bound_only):
        return ""
    if column.digits is None:
        return str(value)
    text = f"{value:.{column.digits}f}" if abs(value) < 1e7 else f"{value:.3g}"
    if column.key in _AGAINST_LOG_PX and lower_bound_only:
        return f"{_AGAINST_LOG_PX[column.key]} {text}"
    return f"{text}*" if column.key == "bound" and row["direction"] == "none" else text


def title(rows: Sequence[Row]) -> str:
    """Return the data contract of some rows in a line."""
    first = rows[0]
    return f"{first['data']}, {first['num_examples']} {first['split']} examples ({first['protocol']})"


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return what a reader of some rows must know besides: what dashes mean, and whose examples differ."""
    notes = []
    if any(row["scope"] == "batch" and row["bound"] is None for row in rows):
        notes.append("-: its value for an example depends on the whole batch, so it is trained with and not evaluated")
    if rows[0]["test_binarization"] == "resample":
        notes.append("each row is scored on test images drawn with its own seed, by which rows and seeds differ, too")
    return notes


def to_json(parts: Sequence[Sequence[Row]]) -> str:
    """Return all rows as one JSON list."""
    return json.dumps([row for rows in parts for row in rows], indent=2, allow_nan=False)


def to_csv(parts: Sequence[Sequence[Row]]) -> str:
    """Return all rows as CSV; text that a spreadsheet would take for a formula is quoted with an apostrophe."""
    out = io.StringIO()
    keys = [*dict.fromkeys(key for rows in parts for row in rows for key in row)]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(keys)
    for rows in parts:
        writer.writerows([_plain(row[key]) for key in keys] for row in rows)
    return out.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r\n"):
        return f"'{value}"
    return value


def to_markdown(parts: Sequence[Sequence[Row]], columns: Sequence[Column] = COLUMNS) -> str:
    """Return one Markdown table for each data contract."""
    lines: list[str] = []
    for rows in parts:
        shown = _with_content(rows, columns)
        lines += [_escaped(title(rows)), "", "| " + " | ".join(_escaped(column.title) for column in shown) + " |"]
        lines.append("|" + "|".join(" --- " if column.digits is None else " ---: " for column in shown) + "|")
        lines += ["| " + " | ".join(_escaped(cell(row, column)) for column in shown) + " |" for row in rows]
        for note in footnotes(rows):
            lines += ["", f"`-`{note[1:]}" if note.startswith("-") else note]
        lines.append("")
    return "\n".join(lines)


def _with_content(rows: Sequence[Row], columns: Sequence[Column]) -> list[Column]:
    """Return the columns without those that no row of this kind of data has."""
    return [column for column in columns if column.key != "bits_per_dim" or any(row[column.key] for row in rows)]


def _escaped(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for character in "|`*[]":
        text = text.replace(character, f"\\{character}")
    return text


_HIDDEN_FIRST = ("seconds", "ess", "distortion", "active_units", "bound", "elbo", "rate")
"""Columns that a narrow terminal does without, in this order; JSON and CSV have them all."""


def print_tables(parts: Sequence[Sequence[Row]], console: Console, columns: Sequence[Column] = COLUMNS) -> None:
    """Print one table for each data contract, and what its columns are."""
    for rows in parts:
        # What is the same in every row is said once, above.
        once = [key for key in ("model", "seed", "seeds") if key in {column.key for column in columns}]
        same = [key for key in once if len({row[key] for row in rows}) == 1]
        heading = ", ".join([title(rows), *(f"{key} {rows[0][key]}" for key in same)])
        shown = [column for column in _with_content(rows, columns) if column.key not in same]
        hidden = _hidden(rows, shown, console.width)
        table = _table(rows, [column for column in shown if column.key not in hidden])
        console.print(Text(heading))
        console.print(table)
        for note in footnotes(rows):
            console.print(Text(f"  {note}"))
        if hidden:
            console.print(Text(f"  hidden in {console.width} columns: {', '.join(hidden)}; --format json has them all"))
    if parts:
        keys = {"log_px", "bits_per_dim", "elbo_gap", "bound", "bound_gap", "rate"}
        for column in _with_content([row for rows in parts for row in rows], COLUMNS):
            if column.key in keys:
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
