"""Several processes: the same bytes from one checkpoint, the same training up to rounding."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from elbo_bench.evaluation.finished_blocks import FinishedBlocks
from elbo_bench.results.record import read_examples, read_result

# 97 examples in blocks of 8: neither is shared evenly by 2, 3 or 4 ranks, and the last block is padded.
TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_samples=200",
    "evaluation.num_examples=97",
    "evaluation.block_size=8",
]


def run(*arguments: str, runs: Path) -> str:
    """Run a command in a process of its own, as its ranks are started by running it again."""
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "ELBO_BENCH_RUNS": str(runs), "PYTHONPATH": root}
    command = [sys.executable, "-m", "elbo_bench", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    runs = tmp_path_factory.mktemp("single")
    run("train", *TINY, "trainer.max_steps=20", "objective=iwae", "objective.num_samples=3", runs=runs)
    (folder,) = runs.iterdir()
    return folder


@pytest.mark.parametrize("ranks", [2, *(pytest.param(many, marks=pytest.mark.slow) for many in (3, 4))])
def test_ranks_evaluate_a_checkpoint_to_the_same_bytes(ranks: int, single: Path) -> None:
    arguments = ["evaluate", str(single), f"trainer.devices={ranks}", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    printed = json.loads(run(*arguments, "--json", "--force", runs=single.parent))
    folder = Path(printed["folder"])
    assert printed["compute"]["world_size"] == ranks
    assert json.dumps(printed["metrics"]) == json.dumps(read_result(single)["metrics"])
    assert (folder / "examples.npz").read_bytes() == (single / "examples.npz").read_bytes()


@pytest.mark.slow
def test_more_ranks_than_blocks(single: Path) -> None:
    sizes = ["evaluation.num_examples=2", "evaluation.block_size=1"]
    placement = ["trainer.devices=3", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    alone = json.loads(run("evaluate", str(single), *sizes, "--json", runs=single.parent))
    many = json.loads(run("evaluate", str(single), *sizes, *placement, "--json", "--force", runs=single.parent))
    assert many["metrics"] == alone["metrics"]
    assert len(read_examples(Path(many["folder"]))["id"]) == 2


def test_two_ranks_train_as_one_up_to_rounding_and_record_once(single: Path, tmp_path: Path) -> None:
    arguments = ["train", *TINY, "trainer.max_steps=20", "objective=iwae", "objective.num_samples=3"]
    printed = json.loads(
        run(*arguments, "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "--json", runs=tmp_path)
    )
    folder = Path(printed["folder"])
    assert folder.name == single.name  # placement is no part of a run's name
    assert printed["compute"]["world_size"] == 2
    one, two = (safetensors.torch.load_file(each / "model.safetensors") for each in (single, folder))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert read_examples(folder)["log_px"] == pytest.approx(read_examples(single)["log_px"], abs=1e-3)
    assert np.array_equal(read_examples(folder)["id"], read_examples(single)["id"])
    assert len(set(read_examples(folder)["id"].tolist())) == 97


def test_a_killed_evaluation_goes_on_from_its_finished_blocks(single: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "ELBO_BENCH_RUNS": str(single.parent), "PYTHONPATH": root}
    sizes = ["evaluation.num_samples=6000", "evaluation.target_se=null", "evaluation.seed=3"]
    command = [sys.executable, "-m", "elbo_bench", "evaluate", str(single), *sizes, "--json"]
    undisturbed = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    folder = Path(undisturbed["folder"])
    examples = (folder / "examples.npz").read_bytes()
    assert not (folder / ".blocks").exists()
    process = subprocess.Popen([*command, "--force"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(done := list(folder.glob(".blocks/*/block-*"))) < 2:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    (folder / "result.json").unlink()  # as if there had never been one
    (kept,) = {place.parent for place in done}
    # What is found is not computed again: a block with a mark in it shows in the result.
    marked = sorted(done)[0]
    number, finished = int(marked.name.removeprefix("block-")), FinishedBlocks(kept)
    rows = finished.load(number)
    assert rows is not None
    finished.save(number, {**rows, "log_px": rows["log_px"] + 1000})
    sorted(done)[1].write_bytes(sorted(done)[1].read_bytes()[:-7])  # damaged: computed again
    again = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    block, size = number, 8
    found, expected = read_examples(folder)["log_px"], np.load(io.BytesIO(examples))["log_px"]
    expected[block * size : (block + 1) * size] += 1000
    assert np.array_equal(found, expected)
    assert again["diagnostics"]["num_samples"] == 6000
    assert not kept.exists()
