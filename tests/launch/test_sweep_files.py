"""The sweep files of the project: each is one of W&B's, and its trials run, here and as an agent would start them."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from elbo_bench.cli import main
from elbo_bench.config import resolve, run_id
from elbo_bench.config.catalogue import Catalogue, conf_root
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.errors import UsageError
from elbo_bench.launch.expand import expand

ROOT = conf_root().parent
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
NAMES = [place.stem for place in FILES]
TINY = {
    "trainer.max_epochs": "null",
    "trainer.max_steps": "2",
    "trainer.budget": "{epochs: null, steps: null, decoder_evaluations: null, seconds: null}",
    "trainer.checkpoint": "last",
    "trainer.validate_every": "null",
    "evaluation.num_examples": "5",
    "evaluation.num_samples": "200",
    "then_evaluate": "[]",
    "tracking": "none",
}
QUICK = ("quickstart", "tightness_vs_k", "discrete")


def tiny(words: list[str]) -> list[str]:
    """Words that shrink a trial to seconds."""
    short = [word for word in words if not word.startswith(tuple(TINY))]
    return [*short, *(f"{key}={value}" for key, value in TINY.items())]


def agents_words(config: dict[str, Any], cell: dict[str, Any]) -> list[str]:
    """The command line that wandb's own code makes of one cell of its server's grid, as its agent starts it."""
    command = create_sweep_command(list(config["command"]))
    macros = create_sweep_command_args({"args": {key: {"value": value} for key, value in cell.items()}})
    filled: list[str] = []
    for word in command:
        if word == "${env}":
            filled.append("/usr/bin/env")
        elif word == "${interpreter}":
            filled.append(sys.executable)
        elif word.startswith("${"):
            filled += macros[word[2:-1]]
        else:
            filled.append(word)
    return filled


def cells_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = [{}]
    for key, given in config["parameters"].items():
        values = given["values"] if "values" in given else [given["value"]]
        cells = [{**cell, key: value} for cell in cells for value in values]
    return cells


def test_the_files_that_are_promised_are_there() -> None:
    promised = {
        "quickstart",
        "four_variants",
        "tightness_vs_k",
        "beta_rate_distortion",
        "estimator_snr",
        "burda2016_table1",
        "rainforth2018",
        "architectures",
    }
    assert promised <= set(NAMES)
    for place in FILES:
        comment = "".join(line for line in place.read_text().splitlines() if line.startswith("#"))
        assert "Cost:" in comment, place
        assert len(comment) > 150, place


@pytest.mark.parametrize("place", FILES, ids=NAMES)
def test_an_agents_words_are_the_same_runs_as_our_own(place: Path) -> None:
    config = yaml.safe_load(place.read_text())
    theirs = [agents_words(config, cell) for cell in cells_of(config)]
    start = ["/usr/bin/env", sys.executable, "-m", "elbo_bench", "train"]
    assert all(words[: len(start)] == start for words in theirs)
    ours = [run_id(resolve(words)) for words in expand(place).cells]
    assert sorted(run_id(resolve(words[len(start) :])) for words in theirs) == sorted(ours)


@pytest.mark.parametrize(
    "place",
    [pytest.param(each, id=each.stem, marks=() if each.stem in QUICK else pytest.mark.slow) for each in FILES],
)
def test_the_first_trial_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny(expand(place).cells[0])
    name = resolve(words)["data"]["name"]
    if name != "digits" and not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip(f"{name} is not here: set ELBO_BENCH_DATA")
    assert main(["train", *words]) == 0, capsys.readouterr().err
    assert len(list(Path("runs").glob("*/result.json"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "tightness_vs_k", "objectives"])
def test_an_agents_command_line_runs(name: str, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
    (_, *command) = agents_words(config, cells_of(config)[-1])
    words = [*command[:4], *tiny(command[4:])]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "ELBO_BENCH_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/result.json"))) == 1


def schema() -> dict[str, Any]:
    """The schema of W&B's own package, without importing it: it asks for an old NumPy, and so is no dependency."""
    found = importlib.util.find_spec("sweeps")
    if found is None or found.origin is None:
        pytest.skip("W&B's package of schemas is not here: pip install --no-deps sweeps")
    content: dict[str, Any] = json.loads((Path(found.origin).parent / "config" / "schema.json").read_text())
    return content


@pytest.mark.parametrize("place", FILES, ids=NAMES)
def test_wandbs_own_schema_accepts_it(place: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load(place.read_text()), schema())


def test_the_schema_would_refuse_what_is_wrong() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    good = yaml.safe_load(FILES[0].read_text())
    for wrong in ({"parameters": {}}, {"method": "gird"}, {"parameters": {"seed": {"valeus": [1]}}}, {"colour": "red"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, schema())


@pytest.mark.parametrize("value", [None, True, 1e-05, [16, 8], "iwae", {"a": None, "b": [True, 1.5]}, 12345678901, ""])
def test_what_an_agent_writes_as_python_does_is_read_as_the_same_value(value: object) -> None:
    (word,) = create_sweep_command_args({"args": {"x.y": {"value": value}}})["args_no_hyphens"]
    assert parse_overrides([word], Catalogue.of()) == {"x": {"y": value if value != "" else None}}


def test_a_value_that_no_command_line_can_hold_is_refused() -> None:
    (word,) = create_sweep_command_args({"args": {"x.y": {"value": {1: 2}}}})["args_no_hyphens"]
    with pytest.raises(UsageError, match="not of the form"):
        resolve([word])
