"""A leaderboard as JSON, CSV, Markdown or LaTeX; names in it are data, never markup and never a formula."""

import csv
import io
import json
from collections.abc import Iterable, Sequence

from elbo_bench.report.cells import cell, footnotes, said_once, title, with_content
from elbo_bench.report.columns import Column
from elbo_bench.report.row import Row

_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_IN_PAPERS = (
    *("rank", "objective", "model", "settings", "seeds", "log_px", "se_mc", "se_test", "se_seeds"),
    *("behind", "behind_se", "bits_per_dim", "elbo", "elbo_gap", "bound_gap", "rate", "active_units"),
)
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
"""What TeX would take for its own; the rest, Unicode too, stands for itself."""


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
        lines.append("|" + "|".join(" --- " if _is_text(column) else " ---: " for column in shown) + "|")
        lines += ["| " + " | ".join(_escaped(cell(row, column)) for column in shown) + " |" for row in rows]
        for note in footnotes(rows):
            lines += ["", f"`-`{note[1:]}" if note.startswith("-") else note]
        lines.append("")
    return "\n".join(lines)


def to_latex(parts: Sequence[Sequence[Row]]) -> str:
    """Return one LaTeX table for each data contract, for the packages `booktabs` and `textcomp`.

    It has what a paper's table has; JSON and CSV have every column.
    """
    tables = []
    for rows in parts:
        same = said_once(rows)
        shown = [column for column in with_content(rows) if column.key in _IN_PAPERS and column.key not in same]
        caption = ", ".join([title(rows), *(f"{key} {rows[0][key]}" for key in same)])
        lines = [
            r"\begin{table}",
            rf"\caption{{{latex(caption)}}}",
            rf"\begin{{tabular}}{{{''.join('l' if _is_text(column) else 'r' for column in shown)}}}",
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


def _is_text(column: Column) -> bool:
    return column.digits is None and column.key != "rank"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(latex(text) for text in cells) + r" \\"


def latex(text: str) -> str:
    """Return text for TeX, in which nothing of it is a command; a number's sign is a minus, and >= one relation."""
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
