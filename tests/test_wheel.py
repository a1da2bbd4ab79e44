"""The wheel: what it carries, and that it runs from an empty folder."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_carries_the_package_its_configuration_and_its_sweeps_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {str(place.relative_to(ROOT)) for place in (ROOT / "elbo_bench").rglob("*.py")}
    for folder in ("conf", "sweeps"):
        expected |= {f"elbo_bench/{place.relative_to(ROOT)}" for place in (ROOT / folder).rglob("*.yaml")}
    assert names - {"elbo_bench/py.typed", "elbo_bench/report/page.html"} == expected


def test_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    where = [sys.executable, "-c", "import elbo_bench.config.catalogue as c; print(c.conf_root())"]
    found = subprocess.run(where, cwd=empty, env=env, check=True, capture_output=True, text=True).stdout.strip()
    assert Path(found) == site / "elbo_bench" / "conf"
    command = [
        sys.executable,
        "-m",
        "elbo_bench",
        "train",
        "--json",
        "trainer.max_steps=3",
        "evaluation.num_samples=20",
    ]
    done = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["log_px"]["n"] == 250
    assert [place.name for place in empty.iterdir()] == ["runs"]
    board = [sys.executable, "-m", "elbo_bench", "leaderboard", "--html", "page.html"]
    subprocess.run(board, cwd=empty, env=env, check=True, capture_output=True)
    assert "Which KL is which" in (empty / "page.html").read_text()
