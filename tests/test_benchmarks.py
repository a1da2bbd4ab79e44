"""The scripts in `tests/benchmarks` run, with sizes that take seconds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.records import record, write

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *words: str) -> str:
    """Run a script in a process of its own, without data sets, and return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "ELBO_BENCH_DATA"}
    environment |= {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / script), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def log_px(folder: Path) -> None:
    lines = run("log_px.py", "--samples", "20", "--images", "8", "--rounds", "1").splitlines()
    starts = ["values:", "encoder", "", "encoder", "encoder"]
    assert [line.split(" ")[0] for line in lines] == starts
    nats = re.search(r"at most (\S+) nats", lines[0])
    assert nats is not None
    assert float(nats[1]) < 1e-3


def exact_figure(folder: Path) -> None:
    log_px = np.random.default_rng(0).normal(-90, 27, 250)
    columns = {"log_px": log_px, "log_px_is": log_px - 0.1, "L_1000": log_px - 1.0, "elbo_mc": log_px - 5.0}
    write(folder, record("run", float(log_px.mean()), truth__tier="exact"), "run", id=np.arange(250), **columns)
    run("exact_figure.py", str(folder / "run"), str(folder / "exact.svg"))
    drawn = (folder / "exact.svg").read_text()
    assert "nats below the exact log p(x)" in drawn
    assert "K = 1,000" in drawn


CASES = {"log_px.py": log_px, "exact_figure.py": exact_figure}


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py")))
def test_a_benchmark_runs(script: str, tmp_path: Path) -> None:
    assert script in CASES, f"tests/benchmarks/{script} has no test here"
    CASES[script](tmp_path)
