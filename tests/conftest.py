"""What all tests share: no network, nothing written outside temporary folders, real data where it lies."""

import os
from pathlib import Path

import pytest

# A test that would write says where: the default, `runs` below the current folder, is then a temporary one.
os.environ.pop("ELBO_BENCH_RUNS", None)
# A mirror costs seconds a run: the tests that are about it switch it on.
os.environ["WANDB_MODE"] = "disabled"
# Workers that share the cores take one each (`-n auto`); read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests change the current folder; a relative path must go on meaning what it meant.
if os.environ.get("ELBO_BENCH_DATA"):
    os.environ["ELBO_BENCH_DATA"] = str(Path(os.environ["ELBO_BENCH_DATA"]).resolve())


@pytest.fixture(autouse=True)
def _temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
