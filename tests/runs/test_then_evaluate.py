"""Further evaluations that follow a run's record: computed once, where and as `evaluate` would."""

import json
from pathlib import Path

import pytest
from support.command_line import run

from elbo_bench.cli import main
from elbo_bench.config import check, resolve, run_id
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.launch.trial import Trial
from elbo_bench.results.further import missing_evaluations
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


def evaluations(folder: Path) -> dict[str, Path]:
    found = {
        read_result(place.parent)["cfg"]["evaluation"]["name"]: place for place in folder.glob("evaluations/*/*.json")
    }
    assert len(found) == len(list(folder.glob("evaluations/*")))
    return found


def test_they_are_no_part_of_a_runs_name_and_follow_its_record() -> None:
    plain, more = (check(resolve([*TINY, *words]), Catalogue.of()) for words in ([], [BOTH]))
    assert run_id(plain) == run_id(more)
    assert main(["train", *TINY, BOTH]) == 0
    (folder,) = Path("runs").iterdir()
    assert set(evaluations(folder)) == {"latents", "gradients"}
    assert missing_evaluations(folder, more["then_evaluate"]) == []


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
    assert [each["name"] for each in missing_evaluations(folder, cfg["then_evaluate"])] == ["gradients"]
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
    assert missing_evaluations(folder, wanted) == wanted


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("then_evaluate=gradients", "should be a list of evaluations"),
        ("then_evaluate=[gradient]", "did you mean 'gradients'?"),
        ("then_evaluate=[{name: gradients, num_sample: 3}]", "then_evaluate[0].num_sample"),
        ("then_evaluate=[latents, 3]", "then_evaluate[1]=3"),
        ("then_evaluate=[{name: gradients, num_samples: x}]", "then_evaluate[0].num_samples=x"),
        ("then_evaluate=[{name: latents, num_examples: 5000}]", "the test split has 250 examples"),
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
        words = [*TINY, "trainer.max_epochs=null", "trainer.max_steps=1", "trainer.accelerator=cpu", *placement]
        words.remove("trainer.max_epochs=1")
        run("train", *words, "then_evaluate=[latents]", runs=tmp_path / runs)
        (folder,) = (tmp_path / runs).iterdir()
        places.append(evaluations(folder)["latents"])
    one, two = (read_result(place.parent) for place in places)
    assert two["compute"]["world_size"] == 2
    assert set(one["metrics"]) == set(two["metrics"])
    for name, metric in one["metrics"].items():
        assert two["metrics"][name]["value"] == pytest.approx(metric["value"], abs=1e-4), name
