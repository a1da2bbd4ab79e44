"""Laws of `key=value` words: what is written is read back, with its type."""

import os
import pickle
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st
from support.linear_gaussian_case import trials
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from elbo_bench.cli import _parse
from elbo_bench.config import resolve
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.config.overrides import parse_overrides, write_override
from elbo_bench.errors import UsageError
from elbo_bench.launch.expand import expand
from elbo_bench.launch.task import Task

CATALOGUE = Catalogue.of()
TEXTS = (
    *("None", "null", "~", "", "no", "true", "2024", "010", "1:30", "1e-3", "0x1f", "1_000", ".inf", "2024-01-01"),
    *("9" * 5000, "[x]", "{a: 1}", "[None]", "b: c", "b:", "pics #2", "#2", "1 # c", "None # c", "a, None", "a=b", "="),
    *("'", '"', "'a'", '"a" b', "\\", "\\n", "%x", "@x", "`x", "*a", "&a x", "!x a", "!!str 1", "|", ">", "- a", "? a"),
    *(
        "  ",
        " leading and trailing ",
        "a\nb: c",
        "\n",
        "\r",
        "\t",
        "\0",
        "\x1b[31m",
        "\x85",
        "\u2028",
        "\xa0",
        "\ufeff",
    ),
    *("\U0001f600", "\n\U0001f600", "\ud800", "\udcff", "\ud83d\ude00", "${seed}", "${", '"${', "\\${", "iwae", "<<"),
    *("???", "--- a", "x" * 200 + "\n" + "y z " * 100),
)
SIGNS = "None null${}[]:#'\"\\ \n\t,=~-!&*0x1e.\u2028\ud800\U0001f600é"
texts = st.one_of(
    st.sampled_from(TEXTS),
    st.text(st.sampled_from(SIGNS), max_size=12),
    st.text(st.characters(exclude_categories=()), max_size=12),
)
scalars = st.one_of(texts, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["a", "b_2", "None", "no", "null"]), inner, max_size=3),
    ),
    max_leaves=10,
)


def read(word: str) -> Any:
    return parse_overrides([word], CATALOGUE)["x"]["y"]


def typed(value: Any) -> Any:
    """A value with the type of each part: True is not 1, and 1 is not 1.0."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    return [typed(inner) for inner in value] if isinstance(value, list) else (type(value), repr(value))


@trials(300)
@hypothesis.given(value=texts)
def test_law_every_text_is_read_as_it_was_written(value: str) -> None:
    word = write_override("x.y", value)
    assert read(word) == value
    assert type(read(word)) is str


@pytest.mark.parametrize("value", TEXTS, ids=lambda value: ascii(value)[:30])
def test_law_every_text_is_read_as_it_was_written_within_a_list(value: str) -> None:
    for each in (value, [value], [[value, None], {"a": value}]):
        assert read(write_override("x.y", each)) == each


@trials(300)
@hypothesis.given(value=values)
def test_law_every_value_is_read_as_it_was_written_with_its_type(value: Any) -> None:
    assert typed(read(write_override("x.y", value))) == typed(value)


def test_not_a_number_is_read_as_it_was_written() -> None:
    value = read(write_override("x.y", float("nan")))
    assert value != value


@trials(100)
@hypothesis.given(value=values)
def test_law_a_word_can_be_an_argument_of_a_command_and_is_printed_on_one_line(value: Any) -> None:
    word = write_override("x.y", value)
    assert os.fsencode(word).decode() == word
    assert word.isprintable()
    assert word.partition("=")[0] == "x.y"
    task = Task(_run, [word, "seed=1"], ["a folder"], Path("log"), {})
    assert _parse(task.command()[3:]).overrides == task.words
    assert pickle.loads(pickle.dumps(task)).words == task.words


def _run(words: list[str], conf: list[str]) -> int:
    return 0


@trials(300)
@hypothesis.given(rest=st.text(st.one_of(st.sampled_from(SIGNS), st.characters(codec="utf-8")), max_size=12))
def test_law_a_text_that_an_agent_passes_without_quotes_is_read_as_it_is_written(rest: str) -> None:
    hypothesis.assume(rest.isprintable())
    (word,) = create_sweep_command_args({"args": {"x.y": {"value": f"pics{rest}"}}})["args_no_hyphens"]
    assert read(word) == f"pics{rest}"


@pytest.mark.parametrize(
    "text", ["pics #2", "#2", "b: c", "b:", " a ", "@x", "*.png", "- a", "a, None", "Nonesuch", "=", "|"]
)
def test_a_text_on_the_command_line_needs_no_quotes(text: str) -> None:
    assert read(f"x.y={text}") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        (" None ", None),
        ("'None'", "None"),
        ('"None"', "None"),
        ("[None, 'None', \"None\", Nonesuch]", [None, "None", "None", "Nonesuch"]),
        ("{a: None, b: [None, 'a, None']}", {"a": None, "b": [None, "a, None"]}),
        ("'a, None, b'", "a, None, b"),
    ],
)
def test_only_a_none_without_quotes_is_null(text: str, value: object) -> None:
    assert read(f"x.y={text}") == value


def test_an_incomplete_interpolation_is_refused_where_it_is_used() -> None:
    for value in ("${", '"${', ["${"]):
        with pytest.raises(UsageError, match=r"^model.*hidden.*\$\{"):
            resolve([write_override("model.hidden", value)])
    assert resolve(["seed=7", write_override("evaluation.seed", "${seed}")])["evaluation"]["seed"] == 7


@trials(300)
@hypothesis.given(pair=st.lists(texts, min_size=2, max_size=2, unique=True))
def test_law_two_texts_of_a_sweep_are_two_cells_that_are_read_as_those_texts(pair: list[str]) -> None:
    # A sweep file cannot hold half of a surrogate pair, nor an incomplete interpolation.
    hypothesis.assume("${" not in "".join(pair) and not any(0xD800 <= ord(sign) < 0xE000 for sign in "".join(pair)))
    Path("sweep.yaml").write_text(yaml.safe_dump({"parameters": {"x.y": {"values": pair}}}, default_style='"'))
    cells = expand(Path("sweep.yaml")).cells
    assert len({tuple(cell) for cell in cells}) == 2
    assert [read(word) for (word,) in cells] == pair
