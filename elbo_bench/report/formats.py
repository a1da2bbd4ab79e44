"""A leaderboard as JSON, CSV, Markdown or LaTeX. Names are escaped, so that none is read as markup or a formula."""

import csv
import io
import json
from collections.abc import Iterable, Sequence

from elbo_bench.report.cells import cell, footnotes, split_columns, title, with_content
from elbo_bench.report.row import Row

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "±": r"$\pm$",
    "‖": r"$\|$",
    "†": r"$^\dagger$",
}
"""Characters that TeX does not print as they are."""


def to_json(parts: Sequence[Sequence[Row]]) -> str:
    """Return all rows as one JSON list."""
    return json.dumps([row.as_dict() for rows in parts for row in rows], indent=2, allow_nan=False)


def to_csv(parts: Sequence[Sequence[Row]]) -> str:
    """Return all rows as CSV; an apostrophe precedes text that a spreadsheet would read as a formula."""
    out = io.StringIO()
    rows = [row.as_dict() for rows in parts for row in rows]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(map(_plain, row.values()) for row in rows)
    return out.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and value.lstrip()[:1] in _FORMULA and value:
        return f"'{value}"
    return value


def to_markdown(parts: Sequence[Sequence[Row]]) -> str:
    """Return one Markdown table for each data contract."""
    lines: list[str] = []
    for rows in parts:
        shown = with_content(rows)
        lines += [_escaped(title(rows)), "", "| " + " | ".join(_escaped(column.title) for column in shown) + " |"]
        lines.append("|" + "|".join(" --- " if column.digits is None else " ---: " for column in shown) + "|")
        lines += ["| " + " | ".join(_escaped(cell(row, column)) for column in shown) + " |" for row in rows]
        for note in footnotes(rows):
            lines += ["", f"`-`{note[1:]}" if note.startswith("-") else note]
        lines.append("")
    return "\n".join(lines)


def to_latex(parts: Sequence[Sequence[Row]]) -> str:
    """Return one LaTeX table for each data contract: the data set, split and values that make results comparable.

    The tables need the packages `booktabs` and `textcomp`.

    JSON and CSV have more columns.
    """
    tables = []
    for rows in parts:
        caption, columns = split_columns(rows)
        shown = [column for column in columns if column.in_papers]
        lines = [
            r"\begin{table}",
            rf"\caption{{{latex(caption)}}}",
            rf"\begin{{tabular}}{{{''.join('l' if column.digits is None else 'r' for column in shown)}}}",
            r"\toprule",
            _latex_row(column.title for column in shown),
            r"\midrule",
            *(_latex_row(cell(row, column) for column in shown) for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {latex(note)}}}" for note in footnotes(rows)),
            r"\end{table}",
        ]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(latex(text) for text in cells) + r" \\"


def latex(text: str) -> str:
    """Return text for TeX, without commands. The sign of a number becomes a minus, and `>=` a relation sign."""
    for sign, relation in ((">= ", r"$\ge$ "), ("<= ", r"$\le$ ")):
        if text.startswith(sign):
            return relation + latex(text.removeprefix(sign))
    if text[:1] == "-" and text[1:2].isdigit():
        return "$-$" + latex(text[1:])
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _escaped(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for character in "|`*[]":
        text = text.replace(character, f"\\{character}")
    return text
