"""Runs on a user's own file: known by its bytes, wherever they lie and however they are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elbo_bench.cli import main

WORDS = [
    "data=array",
    "data.values=continuous",
    "model.likelihood=gaussian",
    "model.latent_dim=2",
    "model.hidden=[5]",
    "trainer.max_epochs=2",
    "trainer.validate_every=null",
    "evaluation.num_samples=20",
    "tracking=none",
]


def train(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["train", *WORDS, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    place = tmp_path / "own.npy"
    np.save(place, np.random.default_rng(0).standard_normal((60, 4)))
    return place


def test_a_run_is_known_by_the_content_of_its_data(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = train(capsys, f"data.path={own}")
    assert len(first["cfg"]["data"]["sha256"]) == 64
    assert first["data"]["files_sha256"] == {"array": first["cfg"]["data"]["sha256"]}
    assert f"sha256 {first['cfg']['data']['sha256'][:16]}" in first["data"]["protocol"]
    elsewhere = own.with_name("moved.npy")
    shutil.copy(own, elsewhere)
    for words in ([f"data.path={elsewhere}"], ["data.path=own.npy", "data.in_memory=false", "data.readers=0"]):
        assert train(capsys, *words)["run_id"] == first["run_id"]
    assert len(list(Path("runs").glob("array-*"))) == 1
    np.save(own, np.random.default_rng(1).standard_normal((60, 4)))
    assert train(capsys, f"data.path={own}")["run_id"] != first["run_id"]


def test_reading_while_training_gives_the_same_record(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = train(capsys, f"data.path={own}")
    shutil.rmtree("runs")
    lazy = train(capsys, f"data.path={own}", "data.in_memory=false", "data.readers=0")
    for key in ("metrics", "checkpoint", "data", "diagnostics"):
        assert lazy[key] == first[key], key


def test_a_file_that_has_changed_is_not_scored_again(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = train(capsys, f"data.path={own}")
    assert main(["evaluate", first["folder"], "evaluation.num_samples=30", "--json"]) == 0
    capsys.readouterr()
    np.save(own, np.zeros((60, 4)) + 0.5)
    assert main(["evaluate", first["folder"], "evaluation.num_samples=40"]) == 2
    said = capsys.readouterr().err
    assert "is not the file that data.sha256 names" in said
    own.unlink()
    assert main(["evaluate", first["folder"], "evaluation.num_samples=40"]) == 2
    assert f"data.path={own}: there is no {own}" in capsys.readouterr().err


def test_a_file_that_has_moved_is_scored_where_it_lies_and_ranked_with_its_like(
    capsys: pytest.CaptureFixture[str], own: Path
) -> None:
    first = train(capsys, f"data.path={own}")
    moved = own.rename(own.with_name("moved.npy"))
    words = [f"data.path={moved}", "data.in_memory=false", "data.readers=0", "evaluation.num_samples=30"]
    assert main(["evaluate", first["folder"], *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == first["data"]
    train(capsys, f"data.path={moved}", "seed=1")
    assert main(["leaderboard", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["num_seeds"] == 2
    assert main(["evaluate", first["folder"], "data.values=levels"]) == 2
    assert "evaluate does not change how a run was trained" in capsys.readouterr().err


def test_a_sweep_does_not_compute_one_content_twice(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    shutil.copy(own, own.with_name("copy.npy"))
    place = own.with_name("sweep.yaml")
    place.write_text(
        "method: grid\nparameters:\n"
        + "".join(f"  {key}: {{value: {json.dumps(_plain(value))}}}\n" for key, value in (w.split("=") for w in WORDS))
        + f"  data.path: {{values: [{own}, {own.with_name('copy.npy')}]}}\n"
    )
    assert main(["sweep", str(place), "--workers", "1", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def _plain(text: str) -> Any:
    return json.loads(text) if text[0] in "[0123456789n" and text != "none" else text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "data.path is not set"),
        (["data.path=nowhere.npy"], "data.path=nowhere.npy: there is no "),
        (["data.path=own.npy", "data.values=levels"], "takes whole numbers 0..255"),
        (["data.path=own.npy", "data.values=null"], "data.values is not set: "),
        (["data.path=own.npy", f"data.sha256={'a' * 64}"], "is not the file that data.sha256 names"),
        (["data.path=own.npy", "data.sha256=x"], "data.sha256=x: "),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], own: Path, words: list[str], said: str
) -> None:
    given = [word for word in WORDS if word.split("=")[0] not in {each.split("=")[0] for each in words}]
    assert main(["train", *given, *words]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not Path("runs").exists()
