"""Sweeps on this machine: each trial once, whatever is killed."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.command_line import start
from support.records import record, write
from support.sweep_runs import records

from elbo_bench.cli import main
from elbo_bench.commands.sweep import carry_out, make_trials
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.launch.board import shown
from elbo_bench.launch.expand import Sweep
from elbo_bench.launch.task import Task
from elbo_bench.launch.trial import Trial

SWEEP = """
method: grid
parameters:
  experiment: {values: [digits_elbo_mc, digits_beta4, digits_iwae8]}
  model.hidden: {value: [16]}
  trainer.max_epochs: {value: EPOCHS}
  trainer.validate_every: {value: null}
  trainer.checkpoint_seconds: {value: 0.2}
  evaluation.num_samples: {value: 40}
  tracking.name: {value: none}
  seed: {values: [0, 1]}
"""


@pytest.mark.slow
def test_sweep_killed_three_times_ends_with_each_trial_once_and_the_numbers_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    place = tmp_path / "sweep.yaml"
    place.write_text(SWEEP.replace("EPOCHS", "40"))
    undisturbed = start("sweep", str(place), "--workers", "2", "--format", "json", runs=tmp_path / "calm")
    out, error = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, error
    assert sum(row["num_seeds"] for row in json.loads(out)) == 6
    assert "6 computed, 0 recorded before, 0 failed" in error

    runs, stamps = tmp_path / "killed", {}  # type: Path, dict[str, int]
    for recorded_before_the_kill in (0, 1, 3):
        running = start("sweep", str(place), "--workers", "2", runs=runs)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            started = list(runs.glob("*/checkpoints/last.ckpt"))
            if len(list(runs.glob("*/result.json"))) >= recorded_before_the_kill and started:
                break
            time.sleep(0.05)
        running.kill()
        running.communicate()
        for result in runs.glob("*/result.json"):
            stamps.setdefault(result.parent.name, result.stat().st_mtime_ns)
    last = start("sweep", str(place), "--workers", "2", "--format", "json", runs=runs)
    out, error = last.communicate(timeout=300)
    assert last.returncode == 0, error
    assert sum(row["num_seeds"] for row in json.loads(out)) == 6
    assert records(runs) == records(tmp_path / "calm")
    # What was recorded before a kill was not computed again.
    assert all((runs / name / "result.json").stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert f"{len(stamps)} recorded before" in error or "recorded before" in error

    again = start("sweep", str(place), runs=runs)
    _, error = again.communicate(timeout=60)
    assert "0 computed, 6 recorded before, 0 failed" in error


@pytest.mark.slow
def test_sigterm_stops_a_sweep_cleanly_and_leaves_no_process_behind(tmp_path: Path) -> None:
    place = tmp_path / "sweep.yaml"
    place.write_text(SWEEP.replace("EPOCHS", "4000"))
    running = start("sweep", str(place), "--workers", "2", runs=tmp_path / "runs")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "runs").glob("*/checkpoints/last.ckpt"))) < 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 75, error
    assert list((tmp_path / "runs").glob("*/result.json")) == []
    left = subprocess.run(["pgrep", "-f", str(place)], capture_output=True, text=True, check=False).stdout.split()
    assert left == []


@pytest.mark.slow
def test_a_sweep_outlives_its_warm_parent_and_one_of_its_workers(tmp_path: Path) -> None:
    place, runs = tmp_path / "sweep.yaml", tmp_path / "runs"
    place.write_text(SWEEP.replace("EPOCHS", "60"))
    running = start("sweep", str(place), "--workers", "1", "--format", "json", runs=runs)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(runs.glob("*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(running.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    for child in children:  # the warm parent, and its watcher of resources
        os.kill(int(child), signal.SIGKILL)
    _, error = running.communicate(timeout=240)
    assert "Traceback" not in error
    assert running.returncode in (0, 3)
    again = start("sweep", str(place), "--workers", "2", "--format", "json", runs=runs)
    out, error = again.communicate(timeout=240)
    assert again.returncode == 0, error
    assert sum(row["num_seeds"] for row in json.loads(out)) == 6


@pytest.mark.slow
def test_a_trial_that_fails_is_named_with_its_reason_and_the_others_are_done(tmp_path: Path) -> None:
    place = tmp_path / "sweep.yaml"
    place.write_text(
        "parameters: {optimizer.name: {value: sgd}, optimizer.lr: {values: [1e30, 1e-3]}, model.hidden: {value: [8]},"
        " trainer.max_epochs: {value: 1}, evaluation.num_samples: {value: 20}, tracking.name: {value: none}}"
    )
    running = start("sweep", str(place), "--format", "json", "--retries", "1", runs=tmp_path / "runs")
    out, error = running.communicate(timeout=120)
    assert running.returncode == 3
    assert len(json.loads(out)) == 1
    (again,) = [line for line in error.splitlines() if "will be tried again" in line]
    assert "the loss is not finite at step 2" in again
    (reason,) = [line for line in error.splitlines() if " failed 2 times: " in line]
    assert "the loss is not finite at step 2" in reason
    assert "exit code 3" in reason
    assert error.splitlines()[-1].startswith("elbo-bench: 1 of 2 trials did not finish")


@pytest.mark.slow
def test_what_can_never_run_is_not_tried_again(tmp_path: Path) -> None:
    place = tmp_path / "sweep.yaml"
    place.write_text("parameters: {model: {value: categorical_latent}, objective: {value: iwae}}")
    running = start("sweep", str(place), runs=tmp_path / "runs")
    _, error = running.communicate(timeout=120)
    assert running.returncode == 3
    assert "tried again" not in error.splitlines()[0]
    (reason,) = [line for line in error.splitlines() if " failed: " in line]
    assert "exit code 2" in reason


@pytest.mark.slow
def test_two_launchers_on_one_folder_run_each_trial_once_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    place, runs = tmp_path / "sweep.yaml", tmp_path / "runs"
    place.write_text(SWEEP.replace("EPOCHS", "60"))
    killed = start("sweep", str(place), "--workers", "1", runs=runs)
    while not list(runs.glob("*/.lock")):
        time.sleep(0.05)
    both = [start("sweep", str(place), "--workers", "1", runs=runs) for _ in range(2)]
    while not list(runs.glob("*/checkpoints/last.ckpt")):
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    said = [launcher.communicate(timeout=200)[1] for launcher in both]
    assert [launcher.returncode for launcher in both] == [0, 0], said
    done = [re.findall(r"^\d/6 (\S+): done", error, re.MULTILINE) for error in said]
    assert set(done[0]).isdisjoint(done[1])
    assert len(records(runs)) == 6
    assert len(done[0]) + len(done[1]) in (5, 6)  # the one that was killed may have been about to record its first
    assert min(map(len, done)) >= 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("parameters: {objectiv.name: {values: [iwae]}}", "did you mean 'objective'?"),
        ("parameters: {experiment: {values: [digits_iwae8, digits_iwae9]}}", "digits_iwae9"),
        ("parameters: {seed: {values: [0, -1]}}", "seed=-1"),
    ],
)
def test_one_bad_cell_and_nothing_is_started(text: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweep.yaml").write_text(text)
    assert main(["sweep", "sweep.yaml"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert named in error
    assert not Path("runs").exists()


def test_words_of_the_command_line_go_before_those_of_the_file() -> None:
    sweep = Sweep([["seed=0", "objective=iwae"], ["seed=1", "objective=iwae"]], [], "log_px", True, [])
    (trial,) = make_trials(sweep, ["seed=7", "optimizer.lr=0.5"], Catalogue.of())
    assert (trial.cfg["seed"], trial.cfg["optimizer"]["lr"], trial.cfg["objective"]["name"]) == (7, 0.5, "iwae")


def board(metric: str, *, maximize: bool | None, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the board of three recorded trials says of a metric at its end."""
    for name, log_px in (("low", -90.0), ("high", -70.0), ("mid", -80.0)):
        if not Path(name).exists():
            write(Path(), record(name, log_px), name)
    trials = [Trial([], {}, Path(name), Path("log"), state="recorded") for name in ("low", "high", "mid")]
    with shown(trials, metric, maximize=maximize):
        pass
    return [line for line in capsys.readouterr().err.splitlines() if "best" in line or "metric" in line]


def test_the_board_shows_the_best_value_by_the_direction_of_the_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert board("log_px", maximize=True, capsys=capsys) == ["best log_px so far on digits: -70.00, high"]
    assert board("log_px", maximize=False, capsys=capsys) == ["best log_px so far on digits: -90.00, low"]
    assert board("elbo_gap", maximize=False, capsys=capsys) == ["best elbo_gap so far on digits: 2.01, low"]
    assert board("rate", maximize=None, capsys=capsys) == []


@pytest.mark.parametrize("maximize", [True, False, None])
@pytest.mark.parametrize(
    ("name", "named"), [("log_pxx", "'log_px'"), ("val/log_px", "'log_px'"), ("elbo", "'elbo_mc'"), ("x", "valid: ")]
)
def test_the_board_says_that_no_record_has_a_metric(
    name: str, named: str, maximize: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = board(name, maximize=maximize, capsys=capsys)
    assert line.startswith(f"elbo-bench: metric: no record has '{name}'; ")
    assert named in line


def test_the_board_says_nothing_of_a_metric_without_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    with shown([Trial([], {}, Path("no_run"), Path("log"), state="failed")], "log_pxx", maximize=True):
        pass
    assert "metric" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "workers"),
    [
        (["evaluation.workers=3"], "evaluation.workers=3"),
        (["evaluation={name: importance, workers: 3}"], "evaluation={name: importance, workers: 3}"),
        (["evaluation=importance"], "evaluation.workers=2"),
    ],
)
def test_a_trial_is_given_the_workers_of_the_engine_unless_its_words_name_them(words: list[str], workers: str) -> None:
    sweep = Sweep([words], [], "log_px", True, [])
    engine = Ended(2)
    carry_out(make_trials(sweep, [], Catalogue.of()), engine, [], sweep, retries=0)
    ((*_, last),) = engine.words
    assert last == workers


class Ended:
    """An engine whose trials end at once, and are not recorded."""

    pause = 0.0

    def __init__(self, cores: int) -> None:
        self.cores, self.words, self._names = cores, list[list[str]](), list[str]()

    def has_room(self, task: Task) -> bool:
        return True

    def start(self, name: str, task: Task) -> None:
        self.words.append(task.words)
        self._names.append(name)

    def ended(self, seconds: float) -> list[tuple[str, int | None]]:
        names, self._names = self._names, []
        return [(name, 2) for name in names]

    def stop(self) -> None:
        pass


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--engine", "slrum"], "did you mean 'slurm'?"),
        (["--engine", "ray", "engine.num_gpu=1"], "did you mean 'num_gpus'?"),
        (["--engine", "ray", "engine.num_gpus=many"], "engine.num_gpus=many"),
        (["--engine", "local", "engine.address=auto"], "engine.address"),
        (["--workers", "0"], "0 is not a whole number of at least 1"),
        (["--retries", "-1"], "-1"),
        (["trainer.num_nodes=2"], "a trial of a sweep runs on one machine"),
        (["--trials", "x"], "x is not a whole number"),
    ],
)
def test_words_that_no_engine_knows(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweeps/quickstart.yaml", *words]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert named in error
    assert not Path("runs").exists()


def test_a_sweep_file_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweeps/quickstar.yaml"]) == 2
    assert "did you mean 'sweeps/quickstart.yaml'?" in capsys.readouterr().err
