"""`elbo-bench data`: what there is, and whether the files are the official ones."""

import json
import os
import shutil
from pathlib import Path

import pytest

from elbo_bench.cli import main


def test_list_says_where_from_how_and_under_which_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path))
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"digits", "linear_gaussian_data", "mnist_dynamic", "mnist_static"} <= set(rows)
    assert rows["digits"]["here"] == rows["linear_gaussian_data"]["here"] == "built in"
    assert rows["mnist_static"]["here"] == "no"
    assert "1297/250/250" in rows["digits"]["protocol"]
    assert rows["linear_gaussian_data"]["observation"] == "continuous"
    assert {len(file["sha256"]) for file in rows["mnist_dynamic"]["files"]} == {64}
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)


def test_verify_of_official_files(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    assert main(["data", "verify", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {state for row in rows for state in row["files"].values()} == {"ok"}
    assert sum(len(row["files"]) for row in rows) >= 5


def test_verify_names_the_file_that_is_missing_or_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-images-idx3-ubyte.gz").write_bytes(b"not MNIST")
    assert main(["data", "verify", "mnist_dynamic"]) == 2
    out, error = capsys.readouterr()
    assert out.count("missing or wrong") == 2
    assert error.count("\n") == 1
    assert "2 data files are missing or wrong" in error
    assert str(tmp_path / "mnist/train-images-idx3-ubyte.gz") in error
    assert main(["data", "verify", "mnist_dynamics"]) == 2
    assert "did you mean 'mnist_dynamic'?" in capsys.readouterr().err
    assert main(["data", "verify", "digits"]) == 0
    shutil.rmtree(tmp_path / "mnist")
