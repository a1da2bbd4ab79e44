"""Papers: what their files say, what is said of our numbers beside theirs, and `elbo-bench reproduce`."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import metric, record, write

from elbo_bench.cli import main
from elbo_bench.commands.reproduce import compare, find_paper, trials_of
from elbo_bench.commands.sweep import make_trials
from elbo_bench.config.catalogue import Catalogue, conf_root
from elbo_bench.errors import UsageError
from elbo_bench.launch.expand import expand
from elbo_bench.launch.trial import Trial
from elbo_bench.report.paper import Cell, matches, ordering, ours, read_paper, verdict
from elbo_bench.report.read import read_rows

PAPERS = sorted(place.stem for place in (conf_root() / "paper").glob("*.yaml"))


@pytest.mark.parametrize("name", PAPERS)
def test_each_cell_of_each_tier_has_its_runs_and_no_run_is_without_a_cell(name: str) -> None:
    catalogue = Catalogue.of()
    paper, sweep = find_paper(name, catalogue)
    assert {"cpu", "gpu"} <= set(paper.tiers)
    for tier, said in paper.tiers.items():
        trials = make_trials(expand(sweep), said.words, catalogue)
        found = trials_of(paper, trials, tier)
        used = {trial.name for cell in found.values() for trial in cell}
        assert tier != "gpu" or used == {trial.name for trial in trials}
        for claim in paper.orderings:
            if tier in claim.tiers:
                assert {claim.larger, claim.smaller} <= set(found)
        for cell in found.values():  # seeds of one configuration
            assert len({trial.cfg["seed"] for trial in cell}) == len(cell)


def test_the_numbers_of_burda_2016_are_those_of_its_table_1() -> None:
    """Their negative log-likelihoods: for 1 and 2 layers, and k = 1, 5, 50, of the VAE and of the IWAE."""
    published = {
        "MNIST": {"VAE": [86.76, 86.47, 86.35, 85.33, 85.01, 84.78], "IWAE": [0, 85.54, 84.78, 0, 83.89, 82.90]},
        "OMNIGLOT": {
            "VAE": [108.11, 107.62, 107.80, 107.58, 106.31, 106.30],
            "IWAE": [0, 106.12, 104.67, 0, 104.79, 103.38],
        },
    }
    expected = {}
    for data, columns in published.items():
        for column, numbers in columns.items():
            settings = itertools.product(("1 layer", "2 layers"), (1, 5, 50))
            for (layers, k), number in zip(settings, numbers, strict=True):
                if number:  # with k = 1 the two are one
                    expected[f"{data}, {layers}, {f'{column} ' if k > 1 else ''}k={k}"] = -number
    paper, _ = find_paper("burda2016", Catalogue.of())
    assert {cell.name: cell.value for cell in paper.cells} == expected
    assert {cell.mark for cell in paper.cells} == {"V"}


def test_the_numbers_of_rainforth_2018_are_those_of_its_table() -> None:
    names = ("IWAE", "PIWAE(8, 8)", "MIWAE(8, 8)", "CIWAE 0.5", "VAE")
    log_px, bounds = (-84.52, -84.46, -84.97, -85.24, -86.21), (-86.11, -85.74, -85.69, -86.08, -86.69)
    expected = {f"{name}, log p(x)": value for name, value in zip(names, log_px, strict=True)}
    expected |= {f"{name}, L_64": value for name, value in zip(names, bounds, strict=True)}
    paper, _ = find_paper("rainforth2018", Catalogue.of())
    assert {cell.name: cell.value for cell in paper.cells} == expected
    assert {cell.mark for cell in paper.cells} == {"V2"}


@pytest.mark.parametrize("name", PAPERS)
def test_each_claim_holds_for_the_numbers_of_the_paper(name: str) -> None:
    paper, _ = find_paper(name, Catalogue.of())
    for claim in paper.orderings:
        larger, smaller = paper.cell(claim.larger).value, paper.cell(claim.smaller).value
        assert larger is not None
        assert smaller is not None
        assert larger > smaller, claim


def cell(value: float = -85.0, **changes: Any) -> Cell:
    return Cell(**{"name": "c", "of": {}, "value": value, "mark": "V", "tolerance": 0.5, "tiers": ["cpu"], **changes})


def test_a_verdict_says_on_which_side_of_the_tolerance_ours_is() -> None:
    def said(ours_value: float, **changes: Any) -> str:
        made = cell(**changes)
        our = ours(made, [record("a", ours_value, metrics__active_units=metric(ours_value, "dimensions"))])
        assert made.value is not None
        return verdict(made, made.value, our)

    assert [said(value) for value in (-85.5, -85.51, -84.49, -84.5)] == [
        "within tolerance",
        "worse",
        "better",
        "within tolerance",
    ]
    assert said(20.0, value=25.0, metric="active_units") == "differs"
    assert said(85.0, value=-85.0, metric="-log_px") == "within tolerance"
    assert verdict(cell(), -85.0, None) == "not run"
    assert ours(cell(metric="L_7"), [record("a", -85.0)]) is None


def test_ours_is_the_mean_over_seeds_with_both_errors() -> None:
    made = ours(cell(), [record("a", -84.0), record("b", -86.0)])
    assert made is not None
    assert (made.value, made.seeds, made.lower_bound) == (-85.0, 2, False)
    assert made.error == pytest.approx(np.hypot(0.25, 1.0))
    bounded = ours(cell(), [record("a", -84.0, truth__tier="lower-bound-only")])
    assert bounded is not None
    assert bounded.lower_bound


def test_a_lower_bound_below_theirs_decides_nothing() -> None:
    bounded = ours(cell(), [record("a", -90.0, truth__tier="lower-bound-only")])
    above = ours(cell(), [record("a", -80.0, truth__tier="lower-bound-only")])
    assert (verdict(cell(), -85.0, bounded), verdict(cell(), -85.0, above)) == ("undecided", "better")


def test_an_ordering_is_not_decided_across_contracts_or_by_a_lower_bound(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(-90, 27, 500)
    kinds = {"high": {}, "low": {}, "bounded": {"truth__tier": "lower-bound-only"}, "elsewhere": {"data__name": "omni"}}
    for name, changes in kinds.items():
        log_px = images + (3.0 if name == "high" else 0.0) + np.random.default_rng(1).normal(0, 1, 500)
        result = record(name, float(log_px.mean()), data__num_examples=500, **changes)
        write(tmp_path, result, name, id=np.arange(500), log_px=log_px, L_64=log_px)
    rows = {row.run_ids[0]: [row] for row in read_rows([tmp_path])[0]}
    said = {name: ordering(cell(), rows["high"], rows[name])[0] for name in ("low", "bounded", "elsewhere")}
    assert said == {"low": "holds", "bounded": "undecided", "elsewhere": "undecided"}
    assert ordering(cell(), rows["bounded"], rows["high"])[0] == "undecided"
    assert ordering(cell(metric="L_64"), rows["high"], rows["bounded"])[0] == "holds"  # of L_64 itself
    place = tmp_path / "bounded" / "examples.npz"
    np.savez(place, **np.load(place), log_px_se_mc=np.full(500, 0.1), pareto_k=np.arange(500) % 10 / 10)
    assert ordering(cell(), rows["high"], rows["bounded"])[0] == "holds"  # by the examples that pass the gate


def test_an_ordering_is_decided_by_a_paired_test(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(-90, 27, 500)
    for name, shift in (("good", 0.4), ("same", 0.0), ("bad", 0.0)):
        log_px = images + shift + generator.normal(0, 1, 500)
        result = record(name, float(log_px.mean()), data__num_examples=500)
        write(tmp_path, result, name, id=np.arange(500), log_px=log_px, elbo_gap=-log_px)
    rows = {row.run_ids[0]: [row] for row in read_rows([tmp_path])[0]}
    said, difference, p = ordering(cell(), rows["good"], rows["bad"])
    assert (said, p is not None and p < 1e-6) == ("holds", True)
    assert difference == pytest.approx(0.4, abs=0.2)
    assert ordering(cell(), rows["bad"], rows["good"])[0] == "reversed"
    assert ordering(cell(metric="-elbo_gap"), rows["good"], rows["bad"])[0] == "holds"
    assert ordering(cell(), rows["same"], rows["bad"])[0] == "undecided"
    assert ordering(cell(), [], rows["bad"]) == ("not run", None, None)
    assert ordering(cell(metric="L_64"), rows["good"], rows["bad"]) == ("undecided", None, None)


def test_what_is_wanted_of_a_configuration_is_found_in_it() -> None:
    cfg = {"data": {"name": "mnist"}, "objective": {"name": "iwae", "num_samples": 5}, "seed": 0}
    assert matches({"data": "mnist", "objective": {"num_samples": 5}}, cfg)
    assert not matches({"data": "mnist", "objective": {"num_samples": 50}}, cfg)
    assert not matches({"objective": {"beta": 1}}, cfg)
    assert not matches({"model": "mlp"}, cfg)


SWEEP = """
program: elbo_bench
command: ["${env}", "${interpreter}", "-m", "elbo_bench", "train", "${args_no_hyphens}"]
parameters:
  data: {value: linear_gaussian_data}
  model: {value: linear_gaussian}
  model.latent_dim: {values: [2, 4]}
  trainer.max_steps: {value: 300}
  optimizer.lr: {value: 0.03}
  evaluation.num_samples: {value: 100}
  tracking: {value: none}
"""
PAPER = {
    "title": "A paper",
    "address": "https://example.org",
    "table": "Table 1",
    "sweep": "mine.yaml",
    "deviates": ["much"],
    "tiers": {"cpu": {"budget": "less", "words": ["evaluation.num_examples=100"]}, "gpu": {"budget": "all"}},
    "cells": [
        {"name": name, "of": {"model": {"latent_dim": size}}, "value": -9, "mark": "V", "tolerance": 1, "tiers": [tier]}
        for name, size, tier in (("two", 2, "cpu"), ("four", 4, "cpu"), ("big", 4, "gpu"))
    ],
    "orderings": [{"larger": "four", "smaller": "two", "tiers": ["cpu"]}],
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf" / "paper"
    folder.mkdir(parents=True)
    (folder / "my_paper.yaml").write_text(json.dumps(PAPER))
    (folder / "mine.yaml").write_text(SWEEP)
    return tmp_path / "conf"


@pytest.mark.slow
def test_reproduce_runs_what_is_missing_and_prints_ours_beside_theirs(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "my_paper", "--conf", str(conf), "--workers", "1"]
    assert main([*command, "--json"]) == 0
    out = capsys.readouterr()
    said = json.loads(out.out)
    verdicts = {each["cell"]: each["verdict"] for each in said["cells"]}
    assert verdicts["four"] == "worse"
    assert verdicts["big"] == "not run"
    assert [(each["larger"], each["verdict"]) for each in said["orderings"]] == [("four", "holds")]
    assert "2 computed, 0 recorded before" in out.err
    assert main(command) == 0
    out = capsys.readouterr()
    assert "0 computed, 2 recorded before" in out.err
    assert "four > two" in out.out
    assert "deviates: much" in out.out
    assert main([*command, "--format", "markdown"]) == 0
    assert "| four &gt; two |" in capsys.readouterr().out
    assert main([*command, "--dry-run"]) == 0
    assert "0 to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["burda2017"], "did you mean 'burda2016'?"),
        (["lucas2019", "--tier", "cpuu"], "did you mean 'cpu'?"),
        (["lucas2019", "trainer.max_epoch=3"], "did you mean 'max_epochs'?"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cells": 3}, "cells"),
        ({"colour": "red"}, "colour"),
        ({"orderings": [{"larger": "five", "smaller": "two", "tiers": ["cpu"]}]}, "names five, which is not a cell"),
        ({"tiers": {"cpu": {"budget": "less"}}}, "no such tier: gpu"),
        ({"cells": [PAPER["cells"][0]] * 2}, "two cells are named two"),  # type: ignore[index]
        ({"cells": [{**PAPER["cells"][0], "exact": "log_px"}]}, "either a value or exact"),  # type: ignore[index]
        ({"cells": [{**PAPER["cells"][0], "mark": "M"}]}, "mark"),  # type: ignore[index]
        ({"cells": [{**PAPER["cells"][0], "tolerance": 0}]}, "tolerance"),  # type: ignore[index]
        ({"cells": [{**PAPER["cells"][0], "value": math.nan}]}, "value"),  # type: ignore[index]
        ({"cells": [{**PAPER["cells"][0], "tolerance": math.inf}]}, "tolerance"),  # type: ignore[index]
    ],
)
def test_a_paper_that_is_none_is_said_in_a_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    place = tmp_path / "p.yaml"
    text = json.dumps({**PAPER, "orderings": [], **change})
    place.write_text(text.replace("NaN", ".nan").replace("Infinity", ".inf"))
    with pytest.raises(UsageError, match=said):
        read_paper(place)


def test_a_cell_that_no_run_of_the_sweep_is_for_is_said(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [{**PAPER["cells"][0], "of": {"model": {"latent_dim": 3}}}]  # type: ignore[index]
    text = json.dumps({**PAPER, "cells": cells, "orderings": [], "tiers": {"cpu": {"budget": ""}}})
    (conf / "paper" / "my_paper.yaml").write_text(text)
    assert main(["reproduce", "my_paper", "--conf", str(conf)]) == 2
    assert "has no run for the table cell two" in capsys.readouterr().err


@pytest.mark.slow
def test_a_linear_vae_reaches_the_maximum_likelihood_of_probabilistic_pca(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "lucas2019", "--json", "tracking=none"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == 9
    assert {each["verdict"] for each in cells} == {"within tolerance"}
    assert all(abs(each["ours"] - each["theirs"]) <= 1e-2 for each in cells)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.num_dims=8"], "no noise is left"),
        (["evaluation.num_examples=100"], "all of its examples"),
        (["evaluation.split=test"], "evaluation.split=train"),
    ],
)
def test_what_is_exact_is_refused_where_it_would_not_be_before_anything_is_run(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "lucas2019", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def trial(folder: Path, cfg: dict[str, Any]) -> Trial:
    return Trial([], cfg, folder, folder / "log")


def test_a_cell_that_lacks_a_seed_or_whose_record_is_damaged_was_not_run(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = read_paper(conf / "paper" / "my_paper.yaml")
    for name in ("two-s0", "two-s1", "four-s0"):
        write(tmp_path, record(name, -9.0), name)
    found = {
        "two": [trial(tmp_path / "two-s0", {}), trial(tmp_path / "two-s1", {})],
        "four": [trial(tmp_path / "four-s0", {}), trial(tmp_path / "four-s1", {})],
    }
    theirs = {each.name: each.value for each in paper.cells}
    cells, claims = compare(paper, found, theirs, "cpu")
    assert [each["verdict"] for each in cells] == ["within tolerance", "not run", "not run"]
    assert [each["verdict"] for each in claims] == ["not run"]
    (tmp_path / "two-s1" / "result.json").write_text("{")
    cells, _ = compare(paper, found, theirs, "cpu")
    assert [each["verdict"] for each in cells] == ["not run"] * 3
    assert capsys.readouterr().err.count("excluded") == 1
