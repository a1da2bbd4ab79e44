"""Further evaluations that follow a run's record: computed once, where and as `evaluate` would."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from elbo_bench.catalogue import Catalogue, conf_root
from elbo_bench.cli import main
from elbo_bench.config import check, resolve, run_id
from elbo_bench.launch.trial import Trial
from elbo_bench.results.further import lacking
from elbo_bench.results.record import read_result

TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_samples=40",
    "evaluation.num_examples=70",
    "trainer.max_epochs=1",
    "tracking=none",
]
BOTH = "then_evaluate=[latents, {name: gradients, num_samples: [1, 4], num_replicates: 16, oracle_samples: 16}]"


def evaluations_that_are_done(folder: Path) -> dict[str, Path]:
    return {
        read_result(place.parent)["cfg"]["evaluation"]["name"]: place for place in folder.glob("evaluations/*/*.json")
    }


def evaluations(folder: Path) -> dict[str, Path]:
    found = evaluations_that_are_done(folder)
    assert len(found) == len(list(folder.glob("evaluations/*")))
    return found


def test_they_are_no_part_of_a_runs_name_and_follow_its_record() -> None:
    plain, more = (check(resolve([*TINY, *words]), Catalogue.of()) for words in ([], [BOTH]))
    assert run_id(plain) == run_id(more)
    assert main(["train", *TINY, BOTH]) == 0
    (folder,) = Path("runs").iterdir()
    assert set(evaluations(folder)) == {"latents", "gradients"}
    assert lacking(folder, more["then_evaluate"]) == []


def test_evaluate_finds_them_recorded_already(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, BOTH]) == 0
    (folder,) = Path("runs").iterdir()
    before = {name: place.stat().st_mtime_ns for name, place in evaluations(folder).items()}
    words = ["evaluation=gradients", "evaluation.num_samples=[1, 4]", "evaluation.num_replicates=16"]
    assert main(["evaluate", str(folder), *words, "evaluation.oracle_samples=16"]) == 0
    assert "recorded already" in capsys.readouterr().out
    assert {name: place.stat().st_mtime_ns for name, place in evaluations(folder).items()} == before


def test_a_recorded_run_gets_just_those_that_it_lacks() -> None:
    assert main(["train", *TINY]) == 0
    (folder,) = Path("runs").iterdir()
    stamp = (folder / "result.json").stat().st_mtime_ns
    cfg = check(resolve([*TINY, BOTH]), Catalogue.of())
    trial = Trial([], cfg, folder, folder / "log")
    assert not trial.is_recorded
    assert main(["train", *TINY, "then_evaluate=[latents]"]) == 0
    assert [each["name"] for each in lacking(folder, cfg["then_evaluate"])] == ["gradients"]
    first = evaluations(folder)["latents"].stat().st_mtime_ns
    assert main(["train", *TINY, BOTH]) == 0
    assert trial.is_recorded
    assert evaluations(folder)["latents"].stat().st_mtime_ns == first
    assert (folder / "result.json").stat().st_mtime_ns == stamp


def test_of_other_weights_they_do_not_count() -> None:
    assert main(["train", *TINY, "then_evaluate=[latents]"]) == 0
    (folder,) = Path("runs").iterdir()
    wanted = check(resolve([*TINY, "then_evaluate=[latents]"]), Catalogue.of())["then_evaluate"]
    place = evaluations(folder)["latents"]
    result = json.loads(place.read_text())
    result["checkpoint"]["weights_sha256"] = "0" * 64
    place.write_text(json.dumps(result))
    assert lacking(folder, wanted) == wanted


def test_where_one_is_computed_makes_it_no_other() -> None:
    assert main(["train", *TINY, "then_evaluate=[{name: latents, workers: 1}]"]) == 0
    (folder,) = Path("runs").iterdir()
    before = evaluations(folder)["latents"].stat().st_mtime_ns
    for word in ("then_evaluate=[latents]", "then_evaluate=[{name: latents, workers: 2}]"):
        assert lacking(folder, check(resolve([*TINY, word]))["then_evaluate"]) == []
        assert main(["train", *TINY, word]) == 0
    assert evaluations(folder)["latents"].stat().st_mtime_ns == before


def test_a_trial_of_a_sweep_keeps_to_its_cores() -> None:
    assert main(["train", *TINY, "evaluation.workers=1", "then_evaluate=[latents]"]) == 0
    (folder,) = Path("runs").iterdir()
    assert read_result(evaluations(folder)["latents"].parent)["cfg"]["evaluation"]["workers"] == 1


def test_of_a_file_that_was_moved_they_are_computed_where_it_lies_now() -> None:
    np.save("before.npy", (np.random.default_rng(0).random((200, 6, 6)) < 0.4).astype(np.uint8))
    words = [*TINY, "data=array", "data.values=binary"]
    words.remove("evaluation.num_examples=70")
    assert main(["train", *words, "data.path=before.npy"]) == 0
    Path("before.npy").rename("after.npy")
    assert main(["train", *words, "data.path=after.npy", "then_evaluate=[latents]"]) == 0
    (folder,) = Path("runs").iterdir()
    assert set(evaluations(folder)) == {"latents"}


def test_one_from_outside_the_package_follows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores.py").write_text(
        "from elbo_bench.evaluation.latents import Latents\n\n\nclass Mine(Latents):\n    pass\n"
    )
    yaml = (conf_root() / "evaluation" / "latents.yaml").read_text()
    place = tmp_path / "my_conf" / "evaluation" / "mine.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(re.sub("target: .*", "target: my_scores:Mine", yaml))
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--conf", str(tmp_path / "my_conf")]
    assert main(["train", *words, *TINY, "then_evaluate=[mine]"]) == 0
    (folder,) = Path("runs").iterdir()
    assert set(evaluations(folder)) == {"mine"}


def test_of_a_recorded_run_none_is_computed_if_one_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY]) == 0
    (folder,) = Path("runs").iterdir()
    capsys.readouterr()
    assert main(["train", *TINY, "then_evaluate=[latents, {name: latents, num_examples: 5000}]"]) == 2
    assert "then_evaluate[1]: evaluation.num_examples=5000" in capsys.readouterr().err
    assert not (folder / "evaluations").exists()


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("then_evaluate=gradients", "should be a list of evaluations"),
        ("then_evaluate=[gradient]", "did you mean 'gradients'?"),
        ("then_evaluate=[{name: gradients, num_sample: 3}]", "then_evaluate[0].num_sample"),
        ("then_evaluate=[latents, 3]", "then_evaluate[1]=3"),
        (
            "then_evaluate=[{num_samples: 3}]",
            'then_evaluate[0]={"num_samples": 3}: should be a name or a mapping with one',
        ),
        ("then_evaluate=[latents, {name: gradients, objectives: [nope]}]", "then_evaluate[1]: objective=nope"),
        ("then_evaluate=[{name: gradients, num_samples: x}]", "then_evaluate[0].num_samples=x"),
        (
            "then_evaluate=[{name: latents, num_examples: 5000}]",
            "then_evaluate[0]: evaluation.num_examples=5000: the test split has 250 examples",
        ),
    ],
)
def test_what_is_wrong_with_them_is_said_before_anything_is_trained(
    word: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *TINY, word]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert named in error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_ranks_compute_them_to_the_same_bytes(tmp_path: Path) -> None:
    places = []
    for runs, placement in (("one", []), ("two", ["trainer.devices=2", "trainer.strategy=ddp"])):
        env = {**os.environ, "ELBO_BENCH_RUNS": str(tmp_path / runs), "PYTHONPATH": str(Path(__file__).parents[1])}
        words = [*TINY, "trainer.max_epochs=null", "trainer.max_steps=1", "trainer.accelerator=cpu", *placement]
        words.remove("trainer.max_epochs=1")
        command = [sys.executable, "-m", "elbo_bench", "train", *words, "then_evaluate=[latents]"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / runs).iterdir()
        places.append(evaluations(folder)["latents"])
    one, two = (read_result(place.parent) for place in places)
    assert two["compute"]["world_size"] == 2
    assert set(one["metrics"]) == set(two["metrics"])
    for name, metric in one["metrics"].items():
        assert two["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("placement", [[], ["trainer.devices=2", "trainer.strategy=ddp"]], ids=["one", "two ranks"])
def test_a_signal_in_the_midst_of_them_leaves_what_is_done(placement: list[str], tmp_path: Path) -> None:
    long, short = (f"{{name: gradients, num_samples: [1, 64], num_replicates: {number}}}" for number in (4000, 16))
    env = {**os.environ, "ELBO_BENCH_RUNS": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "elbo_bench", "train", *TINY, "trainer.accelerator=cpu"]
    process = subprocess.Popen(
        [*command, *placement, f"then_evaluate=[latents, {long}]"], env=env, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/evaluations/*/result.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "the same command goes on" in error
    (folder,) = tmp_path.iterdir()
    assert set(evaluations_that_are_done(folder)) == {"latents"}
    done = subprocess.run(
        [*command, f"then_evaluate=[latents, {short}]"],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(evaluations_that_are_done(folder)) == {"latents", "gradients"}
