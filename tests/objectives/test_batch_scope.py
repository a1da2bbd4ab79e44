"""Objectives of a whole batch: told the size of the training set, trained with, and never evaluated by block."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from elbo_bench.cli import main
from elbo_bench.config import check, resolve
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.results.record import read_examples, read_result
from elbo_bench.runs.run import Run

TINY = ["model.hidden=[16]", "model.latent_dim=4", "evaluation.num_samples=40", "evaluation.num_examples=70"]
NAMES = ["beta_tc", "info_vae"]


def components(*overrides: str) -> Run:
    return Run.build(check(resolve([*TINY, *overrides])), Catalogue.of())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each."""
    found = {}
    for name in NAMES:
        os.environ["ELBO_BENCH_RUNS"] = str(tmp_path_factory.mktemp(name))
        try:
            words = [f"objective={name}", "trainer.max_epochs=2", "trainer.validate_every=1"]
            assert main(["train", *TINY, *words]) == 0
            (found[name],) = Path(os.environ["ELBO_BENCH_RUNS"]).iterdir()
        finally:
            del os.environ["ELBO_BENCH_RUNS"]
    return found


def test_an_objective_is_told_the_size_of_the_training_set_and_no_one_configures_it() -> None:
    built = components("objective=beta_tc")
    assert built.objective.num_train == 1297  # type: ignore[attr-defined]
    assert "num_train" not in built.cfg["objective"]


def test_so_are_objectives_that_an_evaluator_names() -> None:
    cfg = check(resolve(["evaluation=gradients", "evaluation.objectives=[beta_tc]", "evaluation.block_size=64"]))
    built = Run.build(cfg, Catalogue.of())
    assert built.bounds["beta_tc"].num_train == 1297  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_passed_to_no_evaluator_that_goes_by_blocks(name: str) -> None:
    for evaluator in ("importance", "ais", "gaps", "latents", "bdmc"):
        cfg = check(resolve([f"objective={name}", f"evaluation={evaluator}"]))
        assert Run.build(cfg, Catalogue.of()).bound is None, evaluator
    built = components("objective=iwae")
    assert built.bound is built.objective


@pytest.mark.parametrize("name", NAMES)
def test_a_record_has_no_value_of_it_and_says_why(name: str, runs: dict[str, Path]) -> None:
    result, examples = read_result(runs[name]), read_examples(runs[name])
    assert not {"bound", "bound_gap", "bound_se_mc"} & ({*result["metrics"]} | {*examples})
    assert all("bound" not in entry["metrics"] for entry in result["checkpoint"]["validation"])
    assert len(result["checkpoint"]["validation"]) == 2
    assert {"log_px", "elbo_mc", "elbo_gap", "rate"} <= {*result["metrics"]}
    assert (result["objective"]["scope"], result["objective"]["direction"]) == ("batch", "none")
    assert "depends on the other examples of the batch" in result["diagnostics"]["bound_excluded"]


def test_any_other_record_says_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "trainer.max_steps=1"]) == 0
    (folder,) = Path("runs").iterdir()
    result = read_result(folder)
    assert "bound_excluded" not in result["diagnostics"]
    assert "scope" not in result["objective"]
    assert "Not evaluated" not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_has_a_dash_and_says_what_it_means(
    name: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(runs[name])]) == 0  # a second evaluation is told the same
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Not evaluated: the objective, {name}: its value for an example depends on the" in shown
    assert main(["leaderboard", str(runs[name].parent), "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["bound"], row["bound_gap"], row["scope"]) == (None, None, "batch")
    assert main(["leaderboard", str(runs[name].parent)]) == 0
    assert "-: the objective of an example depends on its batch" in capsys.readouterr().out


def gradients(run: Path, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    small = ["evaluation.num_replicates=16", "evaluation.oracle_samples=2", "evaluation.oracle_replicates=16"]
    small += ["evaluation.num_samples=[1]", "evaluation.num_examples=12"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "evaluation=gradients", *small, *words, "--json"]) == code
    out = capsys.readouterr()
    return json.loads(out.out) if code == 0 else out.err


@pytest.mark.parametrize("name", NAMES)
def test_its_gradients_are_measured_on_a_block_that_holds_the_batch(
    name: str, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"evaluation.objectives=[bound,{name},elbo_mc]", "evaluation.block_size=12"]
    metrics = gradients(runs[name], capsys, *words)["metrics"]
    variance = {each: metrics[f"{each}_k1/encoder/variance"]["value"] for each in ("bound", name, "elbo_mc")}
    assert variance[name] == variance["bound"]
    assert variance[name] != variance["elbo_mc"]
    error = gradients(runs[name], capsys, words[0], "evaluation.block_size=11", code=2)
    assert error == ("elbo-bench: evaluation.block_size=11 is too small: bound needs all 12 examples in one block\n")
