"""The leaderboard: ranks within one data contract, says which gap is which, and names what is corrupt."""

import copy
import csv
import io
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import as_row, full, metric, ranked, record, write

from elbo_bench.cli import main
from elbo_bench.errors import UsageError
from elbo_bench.report.cells import cell
from elbo_bench.report.formats import to_csv, to_markdown
from elbo_bench.report.leaderboard import leaderboard
from elbo_bench.report.read import read_rows
from elbo_bench.report.row import COLUMNS, objective_label

ROOT = str(Path(__file__).resolve().parents[2])


def test_rows_are_ranked_by_log_px_and_not_by_tightness() -> None:
    tight = record("tight", -30.0, metrics__elbo_gap=metric(0.1), metrics__bound_gap=metric(0.1))
    loose = record("loose", -25.0, metrics__elbo_gap=metric(4.0))
    ((first, second),) = ranked([tight, loose])
    assert [(each.rank, each.run_ids) for each in (first, second)] == [(1, ["loose"]), (2, ["tight"])]


def test_each_column_is_the_metric_that_it_names() -> None:
    made = as_row(record("a", -25.0))
    assert made.log_px == -25.0
    assert made.elbo == pytest.approx(-27.01)
    assert made.elbo_gap == 2.01
    assert made.bound == -26.0
    assert made.bound_gap == 1
    assert made.rate == 5
    assert made.distortion == 22.0
    assert (made.active_units, made.ess, made.seconds) == (7, 100.0, 4.5)
    assert (made.se_test, made.se_mc) == (0.25, 0.01)


@pytest.mark.parametrize("key", list(record("a", -1.0)["data"]))
def test_a_record_without_a_part_of_its_contract_is_named_and_the_rest_are_ranked(tmp_path: Path, key: str) -> None:
    damaged = record("damaged", -2.0)
    del damaged["data"][key]
    write(tmp_path, damaged, "damaged")
    write(tmp_path, record("whole", -1.0), "whole")
    rows, problems = read_rows([tmp_path])
    assert [[each.run_ids for each in part] for part in leaderboard(rows)] == [[["whole"]]]
    (said,) = problems
    assert "damaged" in said
    assert key in said


def test_rows_whose_test_images_are_their_own_say_so() -> None:
    parts = ranked([record("a", -1.0, data__test_binarization="resample", data__scored_sha256=None)])
    assert "drawn with its own seed" in to_markdown(parts)
    assert "drawn with its own seed" not in to_markdown(ranked([record("a", -1.0)]))


def test_two_contracts_are_never_mixed() -> None:
    changes = [
        {},
        {"data__name": "mnist_static"},
        {"data__protocol": "q"},
        {"data__split": "validation"},
        {"data__test_sha256": "1" * 64},
        {"data__num_examples": 100},
        {"data__observation": "continuous"},
        {"data__values": "fixed"},
        {"data__source": "my_lab.data:Digits"},
        {"data__scored_sha256": "9" * 64},
        {"data__test_binarization": "resample"},
        {"data__num_levels": 256},
        {"data__shape": [64]},
        {"data__splits": {"train": 1296, "validation": 251, "test": 250}},
        {"data__files_sha256": {"a": "2" * 64, "b": "4" * 64}},
    ]
    parts = ranked([record(str(number), -number, **change) for number, change in enumerate(changes)])
    assert len(parts) == len(changes)
    assert {rows[0].rank for rows in parts} == {1}


def test_label_names_the_parameters() -> None:
    assert (
        objective_label({"name": "iwae", "num_samples": 8, "samples_required": 8, "direction": "lower"}) == "iwae K=8"
    )
    assert objective_label({"name": "elbo_mc", "num_samples": 1, "direction": "lower"}) == "elbo_mc"
    assert objective_label({"name": "beta", "num_samples": 1, "beta": 4.0, "kl": "mc"}) == "beta beta=4 kl=mc"


def test_a_dash_and_a_footnote_stand_for_an_objective_of_a_whole_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = record("batch", -25.0, objective__name="beta_tc", objective__scope="batch", objective__direction="none")
    del batch["metrics"]["bound"], batch["metrics"]["bound_gap"]
    infinite = record("infinite", -26.0)  # -inf cannot be recorded: a blank, which is no dash
    del infinite["metrics"]["bound"], infinite["metrics"]["bound_gap"]
    note = "the objective of an example depends on its batch, so it is not evaluated"
    for name, result in (("a", batch), ("b", infinite), ("c", record("plain", -27.0))):
        write(tmp_path, result, name)
    ((first, second, third),) = leaderboard(read_rows([tmp_path])[0])
    assert first.objective == "beta_tc K=8"
    assert (first.bound, first.bound_gap) == (None, None)
    bounds = [column for column in COLUMNS if column.key in ("bound", "bound_gap")]
    assert [cell(first, column) for column in bounds] == ["-", "-"]
    assert [cell(second, column) for column in bounds] == ["", ""]
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(f"  -: {note}") == 1
    assert to_markdown([[first, third]]).count(f"\n\n`-`: {note}\n") == 1
    assert "`-`" not in to_markdown([[second, third]])


def test_a_lower_bound_only_has_no_interval_and_what_is_no_bound_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "runs", record("a", -25.0, truth__tier="lower-bound-only"), "a")
    write(tmp_path / "runs", record("b", -26.0, objective__direction="none"), "b")
    assert main(["leaderboard", "--format", "markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = [title.strip() for title in lines[2].split("|")[1:-1]]
    first, second = (
        dict(zip(head, [cell.strip() for cell in line.split("|")[1:-1]], strict=True)) for line in lines[4:6]
    )
    keys = ("log p(x)", "± MC", "± test", "truth", "ELBO gap", "bound")
    assert [first[key] for key in keys] == [">= -25.00", "", "", "lower bound", ">= 2.01", "-26.00"]
    assert [second[key] for key in keys] == ["-26.00", "0.01", "0.25", "importance", "2.01", "-27.00\\*"]


def seeds(*values: float, **changes: Any) -> list[dict[str, Any]]:
    return [
        record(f"{changes}-s{seed}", value, seed=seed, cfg__seed=seed, **changes) for seed, value in enumerate(values)
    ]


def test_runs_that_differ_in_their_seed_alone_are_a_row_with_their_mean_and_three_errors() -> None:
    tight, loose = seeds(-20.0, -23.0, -26.0), seeds(-19.0, -22.0, cfg__objective={"name": "iwae", "num_samples": 9})
    loose[1]["truth"]["tier"] = "lower-bound-only"
    tight.append(copy.deepcopy(tight[1]))  # a copy of a run is no replicate
    del loose[0]["metrics"]["bound"]
    (rows,) = ranked([*tight, *loose])
    assert [(each.num_seeds, each.seeds, each.log_px) for each in rows] == [
        (2, "0, 1", -20.5),
        (3, "0-2", -23.0),
    ]
    assert rows[1].log_px_sd == 3.0
    assert rows[1].se_seeds == pytest.approx(3.0 / math.sqrt(3))
    assert rows[1].se_mc == pytest.approx(0.01 / math.sqrt(3))
    assert rows[1].se_test == pytest.approx(0.25)
    assert rows[1].elbo_gap_sd == 0.0
    assert rows[1].elbo == pytest.approx(-25.01)
    assert rows[1].run_ids == ["{}-s0", "{}-s1", "{}-s2"]
    assert rows[0].bound is None
    assert rows[0].truth == "lower-bound-only"
    assert "identity" not in rows[0].as_dict()
    shown = to_markdown([rows]).splitlines()
    assert "| log p(x) | ± MC | ± test | ± seeds | to best | ± pair |" in shown[2]
    assert "| >= -20.50 |  |  | 1.50 | 0.00 |  |" in shown[4]
    error = math.sqrt(2 * 0.25**2 + 1.5**2 + 3.0)
    assert f"| -23.00 | 0.01 | 0.25 | 1.73 | -2.50 | {error:.2f} |" in shown[5]


def test_each_run_is_a_row_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, result in enumerate(seeds(-20.0, -23.0)):
        write(tmp_path, result, str(number))
    assert main(["leaderboard", str(tmp_path), "--each-run", "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["log_px"], second["log_px"]) == (-20.0, -23.0)
    assert (first["se_seeds"], first["seeds"], second["seeds"]) == (None, "0", "1")
    assert main(["leaderboard", str(tmp_path)]) == 0
    assert "seeds 0, 1" in capsys.readouterr().out


def test_a_weighted_elbo_is_marked_and_so_is_what_is_no_bound() -> None:
    weighted = record("w", -20.0, objective={"name": "beta", "beta": 4.0, "num_samples": 1, "direction": "lower"})
    plain = record("p", -21.0, objective={"name": "beta", "beta": 1.0, "num_samples": 1, "direction": "lower"})
    none = record("n", -22.0, objective={"name": "beta", "beta": 0.5, "num_samples": 1, "direction": "none"})
    (rows,) = ranked([weighted, plain, none])
    bound = next(column for column in COLUMNS if column.key == "bound")
    assert [cell(row, bound) for row in rows] == ["-21.00†", "-22.00", "-23.00*"]


def test_a_model_is_told_apart_by_the_keys_that_differ() -> None:
    same = {"latent_dim": 8, "posterior": {"name": "diagonal"}}
    first = record("a", -20.0, cfg__model={"name": "mlp", **same, "prior": {"name": "vamp", "num_components": 9}})
    second = record("b", -21.0, cfg__model={"name": "mlp", **same, "prior": {"name": "flow"}})
    (rows,) = ranked([first, second])
    assert [each.model for each in rows] == ["mlp prior=vamp", "mlp prior=flow"]
    assert ranked([first])[0][0].model == "mlp"
    other = record("c", -19.0, model="linear_gaussian", cfg__model={"name": "linear_gaussian", "latent_dim": 3})
    (rows,) = ranked([other, first, second, record("d", -30.0)])
    assert [each.model for each in rows] == ["linear_gaussian", "mlp prior=vamp", "mlp prior=flow", "mlp"]


def test_a_record_whose_configuration_is_none_is_corrupt_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, record("good", -20.0), "good")
    write(tmp_path, record("odd", -21.0, cfg=[1]), "odd")
    write(tmp_path, record("list", -22.0, cfg__model=[1]), "list")
    assert main(["leaderboard", str(tmp_path), "--format", "json"]) == 0
    said = capsys.readouterr()
    assert [each["run_ids"] for each in json.loads(said.out)] == [["good"], ["list"]]
    assert "odd" in said.err


def test_a_table_that_is_said_to_fit_is_cut_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, result in enumerate(seeds(-20.0, -2300.0, -26.0, objective__name="a" * 45)):
        write(tmp_path, result, str(number))
    for arguments in ([], ["--each-run"]):
        assert main(["leaderboard", str(tmp_path), *arguments]) == 0
        assert "\u2026" not in capsys.readouterr().out


def corrupt(number: int) -> str:
    """One of 20 ways in which a file is not a record."""
    good = record("x", -25.0)
    texts: list[str] = ["", "{", "[]", "null", "3", '"x"', json.dumps(good)[:-40], json.dumps(good) + "}", "\x00" * 50]
    texts += ["[" * 100_000, json.dumps(good).replace("-25.0", "NaN"), json.dumps(good).replace("-25.0", "1e999")]
    for key, value in [
        ("schema_version", 99),
        ("metrics", {}),
        ("metrics", {"log_px": 3}),
        ("data", {}),
        ("truth", {}),
        ("compute", {"evaluate_seconds": "long"}),
        ("objective", {"name": "iwae"}),
        ("seed", "zero"),
    ]:
        broken = copy.deepcopy(good)
        broken[key] = value
        texts.append(json.dumps(broken))
    assert len(texts) == 20
    return texts[number]


def test_of_500_records_the_20_corrupt_are_named_and_the_rest_ranked_within_2_s(
    tmp_path: Path,
) -> None:
    runs, generator = tmp_path / "runs", random.Random(0)
    values = [generator.uniform(-30, -20) for _ in range(480)]
    for number, value in enumerate(values):
        write(runs, record(f"run-{number}", value), f"run-{number}")
    for number in range(20):
        write(runs, corrupt(number), f"corrupt-{number}")
    (runs / "unfinished").mkdir()
    # A process of its own: the checks of types that tests switch on cost more than the work.
    command = [sys.executable, "-m", "elbo_bench", "leaderboard", str(runs), "--format", "json"]
    started = time.monotonic()
    done = subprocess.run(command, env={"PYTHONPATH": ROOT}, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - started
    out, error = done.stdout, done.stderr
    rows = json.loads(out)
    assert [each["log_px"] for each in rows] == sorted(values, reverse=True)
    ranks = [each["rank"] for each in rows]  # without their examples neighbours are tied, as 0.25 nat of error says
    assert ranks == sorted(ranks)
    assert ranks[-1] > 250
    named = error.splitlines()
    assert len(named) == 20
    for number in range(20):
        assert sum(f"corrupt-{number}/result.json" in line for line in named) == 1
    assert seconds < 2


@pytest.mark.slow
def test_of_10_000_records_the_300_corrupt_are_named_and_the_rest_ranked_within_5_s(tmp_path: Path) -> None:
    """In 12 ways: empty, cut, no mapping, binary, nested without end, NaN, overflow, another version, parts missing."""
    runs, generator = tmp_path / "runs", random.Random(0)
    good = full("run", -25.0)
    for number in range(9700):
        good |= {"run_id": f"run-{number // 5}-s{number % 5}", "seed": number % 5}
        good["cfg"] = {"optimizer": {"lr": number // 5}, "seed": number % 5, "trainer": {"max_epochs": 10}}
        good["metrics"]["log_px"]["value"] = generator.uniform(-30, -20)
        write(runs, good, f"run-{number}")
    ways = (0, 1, 2, 6, 8, 9, 10, 11, 12, 13, 15, 19)
    for number in range(300):
        write(runs, corrupt(ways[number % 12]), f"corrupt-{number}")
    command = [sys.executable, "-m", "elbo_bench", "leaderboard", str(runs), "--format", "json"]
    seconds = []
    for _ in range(3):  # of CPU time, which is all that it takes: other tests have a share of the clock
        before = os.times()
        done = subprocess.run(command, env={"PYTHONPATH": ROOT}, capture_output=True, text=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system
        seconds.append(spent - before.children_user - before.children_system)
    rows = json.loads(done.stdout)
    assert (len(rows), sum(row["num_seeds"] for row in rows)) == (1940, 9700)
    assert [row["log_px"] for row in rows] == sorted((row["log_px"] for row in rows), reverse=True)
    named = done.stderr.splitlines()
    assert len(named) == 300
    for number in range(300):
        assert sum(f"corrupt-{number}/result.json" in line for line in named) == 1
    assert min(seconds) < 5


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 10**350},
        {"compute__train_seconds": "nan"},
        {"compute__evaluate_seconds": 1e200},
        {"data__name": ["a"]},
        {"objective__direction": None},
        {"data__num_examples": -5},
        {"data__num_examples": 0},
        {"data__num_examples": 10**12},
    ],
)
def test_a_record_that_cannot_be_shown_is_corrupt(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "runs", record("a", -25.0), "a")
    write(tmp_path / "runs", record("b", -25.0, **change), "b")
    for form in ("table", "json", "csv", "markdown"):
        assert main(["leaderboard", "--format", form]) == 0
        assert capsys.readouterr().err.count("runs/b/result.json is not a result") == 1


def test_a_huge_number_or_name_does_not_push_the_others_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs", record("a", -25.125), "a")
    write(tmp_path / "runs", record("b", -1e299, objective__x=list(range(1000))), "b")
    write(tmp_path / "runs", record("c", -26.5, objective__y="a\n\x1b[31mb"), "c")
    assert main(["leaderboard"]) == 0
    out = capsys.readouterr().out
    assert "-25.12" in out
    assert "-1e+299" in out
    assert "\x1b[31m" not in out
    assert sum("iwae K=8" in line for line in out.splitlines()) == 3


def test_a_run_that_is_named_twice_is_ranked_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs", record("a", -25.0), "a")
    assert main(["leaderboard", "runs", "runs", "runs/a", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_hostile_names_are_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = '=HYPERLINK("x")|<img src=x onerror=alert(1)>`[red]x[/red]`\n| a | b |'
    printable = hostile.replace("\n", " ")  # a record whose names move the cursor is corrupt
    result = record(hostile, -25.0, model=hostile, objective__name=printable, data__name=printable)
    parts = ranked([result])
    (parsed,) = list(csv.DictReader(io.StringIO(to_csv(parts))))
    assert parsed["model"] == "'" + hostile
    assert not any(value.startswith(("=", "+", "@")) for value in parsed.values())
    markdown = to_markdown(parts).splitlines()
    assert len(markdown) == 5
    assert not any("<img" in line or "`" in line.replace("\\`", "") for line in markdown)
    assert len({line.replace("\\|", "").count("|") for line in markdown[2:5]}) == 1
    write(tmp_path / "runs", record("a", -25.0, model=printable, objective__name=printable), "a")
    assert main(["leaderboard"]) == 0
    assert "[red]x[/red]" in capsys.readouterr().out


def test_nothing_to_rank_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["leaderboard"]) == 2
    assert "there is no record in runs" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is not a folder"):
        read_rows([tmp_path / "absent"])


def test_leaderboard_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; import elbo_bench.commands.leaderboard; print({'torch', 'lightning'} & set(sys.modules) != set())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ROOT}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("harm", ["huge seeds", "huge examples", "odd bounds", "escapes"])
def test_what_is_odd_in_a_record_stops_nothing(tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    for number, result in enumerate(seeds(-25.0, 1e200 if harm == "huge seeds" else -25.5)):
        if harm == "odd bounds":
            result["metrics"] |= {name: metric(-26.0) for name in ("L_03", "L_٣", "L_" + "9" * 5000, "L_-1", "L_")}
        if harm == "escapes":
            result["metrics"]["\x1b[2J"] = 3
        examples = np.full(250, -1.7e308 if harm == "huge examples" else -25.0)
        write(root, result, f"{number}\nx", id=np.arange(250), log_px=examples)
    write(root, record("other", -27.0), "other")
    page = tmp_path / "page.html"
    assert main(["leaderboard", str(root), "--html", str(page)]) == 0
    said = capsys.readouterr()
    assert "\x1b" not in said.err
    assert all(line.startswith("elbo-bench: ") for line in said.err.splitlines())
    assert said.err.count("excluded") == (2 if harm == "escapes" else 0)


def test_a_rows_truth_is_the_weakest_of_its_seeds() -> None:
    first, second = seeds(-20.0, -21.0)
    first["truth"]["tier"] = "exact"
    ((row,),) = ranked([first, second])
    assert row.truth == "importance"


def test_a_folder_whose_name_is_no_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs", record("a", -20.0), "a")
    odd = os.fsencode(tmp_path / "runs") + b"/\xff"
    os.mkdir(odd)  # noqa: PTH102
    (tmp_path / "runs" / "a" / "result.json").rename(os.fsdecode(odd + b"/result.json"))
    write(tmp_path / "runs", record("b", -20.0), "b")
    assert main(["leaderboard", "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert said.err.count("excluded") == 1
    assert len(said.out.splitlines()) == 2


def test_a_name_that_is_too_long_for_a_page_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "runs", record("a", -20.0), "a")
    assert main(["leaderboard", "--html", "x" * 300]) == 2
    assert "File name too long" in capsys.readouterr().err
