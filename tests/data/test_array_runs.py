"""Runs on a user's own file: known by its bytes, wherever they lie and however they are read."""

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.arrays import NOWHERE, grey, save_images, save_npy
from support.command_line import printed

from elbo_bench.cli import main
from elbo_bench.data.own.array import Array
from elbo_bench.errors import UsageError

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


@pytest.fixture
def own(tmp_path: Path) -> Path:
    place = tmp_path / "own.npy"
    np.save(place, np.random.default_rng(0).standard_normal((60, 4)))
    return place


def test_a_run_is_known_by_the_content_of_its_data(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = printed(capsys, "train", *WORDS, f"data.path={own}")
    assert len(first["cfg"]["data"]["sha256"]) == 64
    assert first["data"]["files_sha256"] == {"array": first["cfg"]["data"]["sha256"]}
    assert f"sha256 {first['cfg']['data']['sha256'][:16]}" in first["data"]["protocol"]
    elsewhere = own.with_name("moved.npy")
    shutil.copy(own, elsewhere)
    for words in ([f"data.path={elsewhere}"], ["data.path=own.npy", "data.in_memory=false", "data.readers=0"]):
        assert printed(capsys, "train", *WORDS, *words)["run_id"] == first["run_id"]
    assert len(list(Path("runs").glob("array-*"))) == 1
    np.save(own, np.random.default_rng(1).standard_normal((60, 4)))
    assert printed(capsys, "train", *WORDS, f"data.path={own}")["run_id"] != first["run_id"]


def test_reading_while_training_gives_the_same_record(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = printed(capsys, "train", *WORDS, f"data.path={own}")
    shutil.rmtree("runs")
    lazy = printed(capsys, "train", *WORDS, f"data.path={own}", "data.in_memory=false", "data.readers=0")
    for key in ("metrics", "checkpoint", "data", "diagnostics"):
        assert lazy[key] == first[key], key


def test_a_file_that_has_changed_is_not_scored_again(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    first = printed(capsys, "train", *WORDS, f"data.path={own}")
    assert main(["evaluate", first["folder"], "evaluation.num_samples=30", "--json"]) == 0
    capsys.readouterr()
    np.save(own, np.zeros((60, 4)) + 0.5)
    assert main(["evaluate", first["folder"], "evaluation.num_samples=40"]) == 2
    said = capsys.readouterr().err
    assert "is not the file that data.sha256 names" in said
    own.unlink()
    assert main(["evaluate", first["folder"], "evaluation.num_samples=40"]) == 2
    assert f"data.path={own}: not found: {own}" in capsys.readouterr().err


def test_a_file_that_has_moved_is_scored_where_it_lies_and_ranked_with_its_like(
    capsys: pytest.CaptureFixture[str], own: Path
) -> None:
    first = printed(capsys, "train", *WORDS, f"data.path={own}")
    moved = own.rename(own.with_name("moved.npy"))
    words = [f"data.path={moved}", "data.in_memory=false", "data.readers=0", "evaluation.num_samples=30"]
    assert main(["evaluate", first["folder"], *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == first["data"]
    printed(capsys, "train", *WORDS, f"data.path={moved}", "seed=1")
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
        (["data.path=nowhere.npy"], "data.path=nowhere.npy: not found: "),
        (["data.path=own.npy", "data.values=levels"], "takes integers 0..255"),
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


def test_the_sha256_is_that_of_the_bytes_or_of_the_names_and_hashes_of_images(tmp_path: Path) -> None:
    path = save_npy(tmp_path, grey())
    assert Array(path=str(path)).with_content_hash(NOWHERE).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    folder = save_images(tmp_path, grey(3))
    (folder / "notes.txt").write_text("no image")
    lines = [f"{i:04d}.png\0{hashlib.sha256((folder / f'{i:04d}.png').read_bytes()).hexdigest()}\n" for i in range(3)]
    exact = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert Array(path=str(folder)).with_content_hash(NOWHERE).sha256 == exact
    (folder / "0002.png").rename(folder / "0003.png")
    assert Array(path=str(folder)).with_content_hash(NOWHERE).sha256 != exact


def test_a_path_starts_at_the_current_folder_or_at_the_folder_of_data_sets_or_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, root, home = (tmp_path / name for name in ("here", "root", "home"))
    for i, folder in enumerate((here, root, home)):
        folder.mkdir()
        save_npy(folder, grey() // 2 + i)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    shas = [hashlib.sha256((folder / "x.npy").read_bytes()).hexdigest() for folder in (here, root, home)]
    assert Array(path="x.npy").with_content_hash(root).sha256 == shas[0]
    assert Array(path="~/x.npy").with_content_hash(root).sha256 == shas[2]
    lazy = Array(path="x.npy", values="levels", in_memory=False).load(root)
    (here / "x.npy").rename(here / "y.npy")
    assert Array(path="x.npy").with_content_hash(root).sha256 == shas[1]
    (here / "y.npy").rename(here / "x.npy")
    monkeypatch.chdir(home)
    assert int(lazy.train[torch.tensor([0])].max()) <= 127  # of here, wherever the process has gone
    with pytest.raises(UsageError, match=r"data.path=z.npy: not found: .*home/z.npy or .*root/z.npy"):
        Array(path="z.npy").with_content_hash(root)


def test_without_a_path_there_is_a_rule_and_nothing_to_load() -> None:
    source = Array()
    assert source.observation == "discrete"
    assert source.protocol == (
        "the user's array, splits of its own or by permutation seed 0: num_validation=a tenth, num_test=a tenth; "
        "values not chosen"
    )
    for use in (source.load, source.with_content_hash):
        with pytest.raises(UsageError, match=r"data.path is not set"):
            use(NOWHERE)
    known = Array(sha256="0123456789abcdef" * 4, values="dequantised", num_test=7, path="/secret/x.npy")
    assert known.observation == "continuous"
    assert known.protocol.startswith("the user's array sha256 0123456789abcdef, splits of its own or by permutation")
    assert "num_test=7; (level + uniform)/256" in known.protocol
    assert "secret" not in known.protocol
    assert (Array().readers, Array(readers=0).readers) == (2, 0)


def test_every_field_is_in_the_configuration_with_its_default() -> None:
    node = yaml.safe_load((Path(__file__).resolve().parents[2] / "conf" / "data" / "array.yaml").read_text())
    assert node.pop("target") == "elbo_bench.data.own.array:Array"
    node["logit_alpha"] = float(node["logit_alpha"])  # 1e-6 is a string to YAML 1.1
    assert node == {field.name: field.default for field in dataclasses.fields(Array)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"in_memory": False, "values": "fixed"}, "in_memory=false: values=fixed draws training data once"),
        ({"in_memory": False, "values": "threshold"}, "in_memory=false: values=threshold"),
        ({"values": "levels", "test_binarization": "resample"}, "test_binarization=resample: values=levels"),
        ({"values": "binary", "test_binarization": "resample"}, "test_binarization=resample: values=binary"),
        ({"num_levels": 257}, "num_levels=257"),
        ({"num_levels": 1}, "num_levels=1"),
        ({"readers": -1}, "readers=-1"),
        ({"num_test": 0}, "num_test=0"),
        ({"sha256": "abc"}, "sha256='abc'"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Array(**fields)
