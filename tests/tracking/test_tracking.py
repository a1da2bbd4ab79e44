"""What W&B is told, read back with its own tool; and that a run does not depend on it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.command_line import run

from elbo_bench.config import check, resolve
from elbo_bench.results.record import read_result
from elbo_bench.runs.run import run_facts
from elbo_bench.tracking.tracker import RunFacts
from elbo_bench.tracking.wandb_tracker import WandbSession, WandbTracker

TINY = ["model.hidden=[16]", "model.latent_dim=4", "trainer.max_epochs=4", "evaluation.num_samples=40"]


@pytest.fixture(autouse=True)
def _default_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_SWEEP_ID", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def mirror_of(folder: Path) -> Path:
    """The only W&B file of a run."""
    (place,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return place


def inspect(place: Path, *options: str) -> list[dict[str, Any]]:
    tool = Path(sys.executable).with_name("wandb")
    command = [str(tool), "leet", "inspect", "--json", *options, str(place)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()] if not options else [json.loads(printed)]


def check_mirror(folder: Path) -> None:
    result, place = read_result(folder), mirror_of(folder)
    (summary,) = inspect(place, "--summary")
    records = inspect(place)
    started = next(each["run"] for each in records if each["type"] == "run")
    assert (started["run_id"], started["display_name"], started["project"]) == (folder.name, folder.name, "elbo-bench")
    assert started["job_type"] == "train"
    assert (summary["state"], summary["exit_code"]) == ("finished", 0)
    assert summary["config"]["cfg"] == result["cfg"]
    told = summary["summary"]
    for name, metric in result["metrics"].items():
        key = f"test/{name}"
        assert told[key] == pytest.approx(metric["value"], rel=1e-12), name
        if metric["se_test"] is not None:
            assert told[f"{key}_se_test"] == pytest.approx(metric["se_test"], rel=1e-12), name
    assert told["truth"] == result["truth"]["tier"]
    history = [each["history"]["item"] for each in records if each["type"] == "history"]
    curve = [item for item in history if "val/log_px" in item]
    assert [item["step"] for item in curve] == [entry["step"] for entry in result["checkpoint"]["validation"]]
    assert len(curve) == 4
    for item, entry in zip(curve, result["checkpoint"]["validation"], strict=True):
        assert item["val/log_px"] == pytest.approx(entry["metrics"]["log_px"], rel=1e-12)
        assert item["val/elbo_gap"] == pytest.approx(entry["metrics"]["elbo_gap"], rel=1e-12)
        assert {"val/elbo_analytic", "val/elbo_mc", "val/bound", "val/L_1", "val/L_2", "val/rate"} <= set(item)
    assert any("train/bound" in item for item in history)
    files = [each["path"] for record in records if record["type"] == "files" for each in record["files"]["files"]]
    assert sum("images/reconstructions" in path for path in files) == 1
    assert sum("images/samples" in path for path in files) == 1
    assert any("test/k_curve" in path for path in files)
    (artifact,) = [
        each["artifact"] for each in records if each["type"] == "artifact" and each["artifact"]["type"] == "examples"
    ]
    (table,) = [entry for entry in artifact["manifest"]["contents"] if entry["path"] == "examples.table.json"]
    stored = json.loads(Path(table["local_path"]).read_text())
    assert len(stored["data"]) == result["data"]["num_examples"]
    assert stored["columns"][0] == "id"
    column = stored["columns"].index("log_px")
    mean = sum(row[column] for row in stored["data"]) / len(stored["data"])
    assert mean == pytest.approx(result["metrics"]["log_px"]["value"], rel=1e-12)


def test_what_is_mirrored_offline_is_the_record(tmp_path: Path) -> None:
    printed = json.loads(run("train", *TINY, "--json", runs=tmp_path).stdout)
    check_mirror(Path(printed["folder"]))


@pytest.mark.slow
def test_two_ranks_make_one_mirror(tmp_path: Path) -> None:
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    printed = json.loads(run("train", *TINY, *ranks, "--json", runs=tmp_path).stdout)
    assert printed["compute"]["world_size"] == 2
    check_mirror(Path(printed["folder"]))


def test_replicates_share_a_group_and_nothing_else_does() -> None:
    def group(*words: str) -> str:
        return run_facts(check(resolve(words)), Path("runs/x"), "train").group

    assert group("seed=0") == group("seed=1") == group("seed=1", "trainer.devices=2")
    assert len({group(), group("optimizer.lr=0.002"), group("objective=iwae"), group("data.batch_size=50")}) == 4
    assert group().startswith("digits-mlp-elbo_analytic-")


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_costs_no_time_and_no_record(tmp_path: Path) -> None:
    times = {}
    for mode in ("offline", "online"):
        started = time.monotonic()
        words = ["train", *TINY, f"tracking.mode={mode}", "--json"]
        done = run(*words, runs=tmp_path / mode, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
        times[mode] = time.monotonic() - started
        check_mirror(Path(json.loads(done.stdout)["folder"]))  # offline, for `wandb sync`
    assert "W&B cannot be reached" in done.stderr
    assert times["online"] < times["offline"] + 5


def test_a_mirror_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    facts = RunFacts("x", tmp_path, "g", "train", {})
    session = WandbTracker(finish_seconds=0.5).start(facts)
    assert isinstance(session, WandbSession)
    assert session._process is not None
    mirror = session._process.pid
    os.kill(mirror, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for step in range(20_000):  # more than a pipe and the queue hold
            session.log({"step": step, "train/bound": 0.0})
        assert time.monotonic() - started < 5
        session.finish(tmp_path)
        assert time.monotonic() - started < 8
    finally:
        os.kill(mirror, signal.SIGKILL)
        os.waitpid(mirror, 0)


@pytest.mark.slow
def test_a_sweep_agent_makes_it_go_online_by_itself(tmp_path: Path) -> None:
    done = run(
        "train",
        *TINY,
        "--json",
        runs=tmp_path,
        WANDB_SWEEP_ID="abc",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="0" * 40,
    )
    assert "W&B cannot be reached" in done.stderr
    assert read_result(Path(json.loads(done.stdout)["folder"]))["status"] == "done"


@pytest.mark.slow
def test_tracking_none_leaves_no_mirror_and_changes_no_number(tmp_path: Path) -> None:
    with_it = json.loads(run("train", *TINY, "--json", runs=tmp_path / "a").stdout)
    without = json.loads(run("train", *TINY, "tracking=none", "--json", runs=tmp_path / "b").stdout)
    assert without["run_id"] == with_it["run_id"]
    assert without["metrics"] == with_it["metrics"]
    assert not (Path(without["folder"]) / "wandb").exists()


def test_a_run_that_fails_is_told_as_failed(tmp_path: Path) -> None:
    run("train", *TINY, "optimizer=sgd", "optimizer.lr=1e30", runs=tmp_path, code=3)
    (folder,) = (place.parent for place in tmp_path.glob("*/config.yaml"))
    (summary,) = inspect(mirror_of(folder), "--summary")
    assert summary["exit_code"] == 3


@pytest.mark.slow
def test_the_agents_command_line_of_the_quickstart_works(tmp_path: Path) -> None:
    """As `wandb agent` builds it: `${args_no_hyphens}` is `key=value` for each parameter."""
    from elbo_bench.config.catalogue import conf_root, load_yaml
    from elbo_bench.launch.expand import expand

    place = conf_root().parent / "sweeps" / "quickstart.yaml"
    words = expand(place).cells[0]
    command = load_yaml(place)["command"]
    assert command == ["${env}", "${interpreter}", "-m", "elbo_bench", "train", "${args_no_hyphens}"]
    done = run(
        "train", *words, *TINY[:2], "trainer.max_epochs=1", "evaluation.num_examples=10", "--json", runs=tmp_path
    )
    assert json.loads(done.stdout)["status"] == "done"
