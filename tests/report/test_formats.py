"""CSV, Markdown, LaTeX and JSON of a leaderboard: text that is hostile stays text."""

import csv
import io
import json
import re
import unicodedata

import pytest
from support.hostile import HOSTILE
from support.records import ranked, record

from elbo_bench.report.formats import latex, to_csv, to_json, to_latex, to_markdown
from elbo_bench.report.row import Row

_COMMANDS = {
    *("begin", "end", "caption", "toprule", "midrule", "bottomrule", "par", "smallskip", "footnotesize"),
    *("ge", "le", "pm", "dagger", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater"),
    *("textbar", "textquotedbl", "textasciigrave", "textquotesingle"),
}


def hostile(text: str) -> list[list[Row]]:
    """A leaderboard with a text in every field of text."""
    objective = {"name": text, "num_samples": 3, "direction": "lower", text: text}
    changes = {"objective": objective, "model": text, "truth__tier": text, "cfg__model": {"name": text, text: text}}
    others = {f"data__{key}": text for key in ("name", "protocol", "split", "values", "observation", "source")}
    return ranked([record(text, -20.0, **changes, **others), record("other", -30.0, **others)])


PRINTABLE = [text if text.isprintable() else text.encode("ascii", "backslashreplace").decode() for text in HOSTILE]


@pytest.mark.parametrize("text", PRINTABLE)
def test_no_cell_of_csv_is_a_formula(text: str) -> None:
    lines = list(csv.reader(io.StringIO(to_csv(hostile(text)))))
    assert {len(line) for line in lines} == {len(lines[0])}
    for line in lines[1:]:
        for cell in line:
            plain = unicodedata.normalize("NFKC", cell).lstrip()
            assert plain[:1] not in ("=", "+", "@"), cell
            assert not plain.startswith("-") or re.fullmatch(r"-[0-9.e+-]+", plain), cell


@pytest.mark.parametrize("text", PRINTABLE)
def test_text_runs_no_command_of_tex_and_breaks_no_table(text: str) -> None:
    made = to_latex(hostile(text))
    body = made.replace("\\\\\n", "\n")
    assert set(re.findall(r"\\([A-Za-z]+)", body)) <= _COMMANDS
    plain = re.sub(r"\\[&%$#_{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert not re.search(r"[#%~]", plain.replace("[c]", ""))
    rows = [line for line in plain.splitlines() if "&" in line]
    assert len({line.count("&") for line in rows}) == 1
    assert len(rows) == 3


@pytest.mark.parametrize("text", PRINTABLE)
def test_text_is_no_markup_of_a_table_in_markdown(text: str) -> None:
    lines = [line for line in to_markdown(hostile(text)).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert not any(re.search(r"<(?!;)[a-zA-Z/!]", line) for line in lines)


@pytest.mark.parametrize("text", PRINTABLE)
def test_json_gives_text_back_as_it_is(text: str) -> None:
    first = json.loads(to_json(hostile(text)))[0]
    assert (first["data"], first["run_ids"]) == (text, [text])


def test_numbers_of_a_latex_table_have_a_minus_and_a_relation() -> None:
    assert latex(">= -25.30") == r"$\ge$ $-$25.30"
    assert latex("-25.30*") == "$-$25.30*"
    assert latex("-27.45†") == r"$-$27.45$^\dagger$"
    assert latex("a-b_c") == r"a-b\_c"


def test_a_latex_table_says_once_what_is_the_same_in_every_row() -> None:
    made = to_latex(ranked([record("a-s3", -20.0, seed=3), record("b-s3", -21.0, seed=3, model="conv")]))
    assert "seeds 3}" in made
    assert r"\# & model & log p(x)" not in made
    assert r"objective & model & log p(x) & $\pm$ MC & $\pm$ test & to best & $\pm$ pair & ELBO & ELBO gap" in made
