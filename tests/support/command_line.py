"""The command line of `elbo-bench`: called within a test, or started as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elbo_bench.cli import main

ROOT = Path(__file__).resolve().parents[2]


def training(*defaults: str) -> Callable[..., Path]:
    """Return a function that trains in this process and returns the run's folder.

    A key of the caller replaces the same key of `defaults`. A training that is refused has no folder: then the folder
    of the runs is returned.
    """

    def train(*words: str, runs: str | Path = "runs", code: int = 0) -> Path:
        given = {word.partition("=")[0] for word in words}
        kept = [word for word in defaults if word.partition("=")[0] not in given]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ELBO_BENCH_RUNS", str(runs))
            assert main(["train", *kept, *words]) == code
        found = list(Path(runs).iterdir()) if Path(runs).exists() else []
        assert len(found) == 1 or code
        return found[0] if len(found) == 1 else Path(runs)

    return train


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command in this process and return the JSON that it prints."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def start(
    *words: str, runs: Path, python: tuple[str, ...] = (sys.executable,), **environment: str
) -> subprocess.Popen[str]:
    """Start a command in a process of its own; `python` starts Python, as torchrun does."""
    variables = {**os.environ, "ELBO_BENCH_RUNS": str(runs), "PYTHONPATH": str(ROOT), **environment}
    command = [*python, "-m", "elbo_bench", *words]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words: str, runs: Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own, check its exit code and return what it printed."""
    process = start(*words, runs=runs, **environment)
    output, error = process.communicate(timeout=240)
    assert process.returncode == code, error
    return subprocess.CompletedProcess(words, code, output, error)
