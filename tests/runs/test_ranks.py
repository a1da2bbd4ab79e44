"""Several processes: the same bytes from one checkpoint, the same training up to rounding."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.command_line import run, start
from support.linear_gaussian_case import X, linear_gaussian
from torch import Tensor

from elbo_bench.config import build
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.config.typed import parameters
from elbo_bench.data.batches import Batch, TrainingBatches
from elbo_bench.evaluation.finished_blocks import FinishedBlocks
from elbo_bench.objectives.base import Objective
from elbo_bench.results.record import read_examples, read_result
from elbo_bench.training.module import BoundModule
from elbo_bench.training.optimizers import SGD

# 97 examples in blocks of 8: neither is shared evenly by 2, 3 or 4 ranks, and the last block is padded.
TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_samples=200",
    "evaluation.num_examples=97",
    "evaluation.block_size=8",
]


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
    printed = json.loads(run(*arguments, "--json", "--force", runs=single.parent).stdout)
    folder = Path(printed["folder"])
    assert printed["compute"]["world_size"] == ranks
    assert json.dumps(printed["metrics"]) == json.dumps(read_result(single)["metrics"])
    assert (folder / "examples.npz").read_bytes() == (single / "examples.npz").read_bytes()


@pytest.mark.slow
def test_more_ranks_than_blocks(single: Path) -> None:
    sizes = ["evaluation.num_examples=2", "evaluation.block_size=1"]
    placement = ["trainer.devices=3", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    alone = json.loads(run("evaluate", str(single), *sizes, "--json", runs=single.parent).stdout)
    many = json.loads(run("evaluate", str(single), *sizes, *placement, "--json", "--force", runs=single.parent).stdout)
    assert many["metrics"] == alone["metrics"]
    assert len(read_examples(Path(many["folder"]))["id"]) == 2


def test_two_ranks_train_as_one_up_to_rounding_and_record_once(single: Path, tmp_path: Path) -> None:
    arguments = ["train", *TINY, "trainer.max_steps=20", "objective=iwae", "objective.num_samples=3"]
    printed = json.loads(
        run(
            *arguments, "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "--json", runs=tmp_path
        ).stdout
    )
    folder = Path(printed["folder"])
    assert folder.name == single.name  # placement is no part of a run's name
    assert printed["compute"]["world_size"] == 2
    one, two = (safetensors.torch.load_file(each / "model.safetensors") for each in (single, folder))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    assert read_examples(folder)["log_px"] == pytest.approx(read_examples(single)["log_px"], abs=1e-3)
    assert np.array_equal(read_examples(folder)["id"], read_examples(single)["id"])
    assert len(set(read_examples(folder)["id"].tolist())) == 97


def objective_of(name: str) -> Objective:
    accepted = parameters(Catalogue.of().target("objective", name))
    made: Objective = build("objective", name, **({"num_train": 11} if "num_train" in accepted else {}))
    return made


def gradient(objective: Objective, rank: int, ranks: int, *, whole: bool) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of one rank on a batch of 7: what DDP takes the mean of."""
    x = torch.from_numpy(np.concatenate([X, X[:3] + 0.5]))
    keys = {"batch_size": 7, "shuffle": True, "seed": 4}
    (batch,) = TrainingBatches(x, rank=rank, world_size=ranks, full_batches=whole, **keys)  # type: ignore[arg-type]
    assert isinstance(batch, Batch)
    module = BoundModule(linear_gaussian(), objective, SGD(), seed=4)
    loss = module.training_step(batch, 0)
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    flat = [
        (torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, module.parameters(), strict=True)
    ]
    return loss.detach(), torch.cat(flat)


@pytest.mark.parametrize("ranks", [2, 3, 9])
@pytest.mark.parametrize("name", [name for name in Catalogue.of().names("objective") if name != "enumerated"])
def test_the_mean_gradient_of_all_ranks_is_that_of_one(name: str, ranks: int) -> None:
    """Nine ranks share seven rows: two of them have none. `enumerated` needs a discrete latent, and has no noise."""
    objective = objective_of(name)
    whole = objective.scope == "batch"
    loss, alone = gradient(objective, 0, 1, whole=False)
    parts = [gradient(objective, rank, ranks, whole=whole) for rank in range(ranks)]
    assert torch.stack([part for part, _ in parts]).mean() == pytest.approx(float(loss), rel=1e-12)
    mean = torch.stack([part for _, part in parts]).mean(0)
    assert alone.abs().max() > 1e-3
    assert (mean - alone).abs().max() <= 1e-11 * alone.abs().max()


@pytest.mark.parametrize("name", ["beta_tc", "info_vae"])
def test_an_objective_of_the_whole_batch_must_not_see_a_share_of_it(name: str) -> None:
    """What the test above would miss if batches were shared out as for any other objective."""
    alone = gradient(objective_of(name), 0, 1, whole=False)[1]
    shared = torch.stack([gradient(objective_of(name), rank, 2, whole=False)[1] for rank in range(2)]).mean(0)
    assert (shared - alone).abs().max() > 1e-3 * alone.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elbo_analytic", "dreg", "rws", "vimco", "sumo", "beta_tc", "info_vae"])
def test_two_ranks_train_any_objective_as_one_up_to_rounding(name: str, tmp_path: Path) -> None:
    # 100 rows a batch and 97 in the last: the ranks' shares differ.
    words = ["train", *TINY, "trainer.max_steps=20", f"objective={name}", "optimizer=sgd", "optimizer.lr=1e-3"]
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    folders = []
    for runs, placement in (("one", []), ("two", ranks)):
        printed = json.loads(run(*words, *placement, "--json", runs=tmp_path / runs).stdout)
        folders.append(Path(printed["folder"]))
    one, two = (safetensors.torch.load_file(folder / "model.safetensors") for folder in folders)
    worst = max(float((one[key] - two[key]).abs().max() / one[key].abs().max()) for key in one)
    print(f"{name}: largest relative difference {worst:.1e}")
    assert worst < 1e-5


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_from_its_finished_blocks(single: Path) -> None:
    sizes = ["evaluation.num_samples=6000", "evaluation.target_se=null", "evaluation.seed=3"]
    command = ["evaluate", str(single), *sizes, "--json"]
    undisturbed = json.loads(run(*command, runs=single.parent).stdout)
    folder = Path(undisturbed["folder"])
    examples = (folder / "examples.npz").read_bytes()
    assert not (folder / ".blocks").exists()
    process = start(*command, "--force", runs=single.parent)
    deadline = time.monotonic() + 120
    while len(done := list(folder.glob(".blocks/*/block-*"))) < 2:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (folder / "result.json").unlink()  # as if there had never been one
    (kept,) = {place.parent for place in done}
    # What is found is not computed again: a block with a mark in it shows in the result.
    marked = sorted(done)[0]
    number, finished = int(marked.name.removeprefix("block-")), FinishedBlocks(kept)
    rows = finished.load(number)
    assert rows is not None
    finished.save(number, {**rows, "log_px": rows["log_px"] + 1000})
    sorted(done)[1].write_bytes(sorted(done)[1].read_bytes()[:-7])  # damaged: computed again
    again = json.loads(run(*command, runs=single.parent).stdout)
    block, size = number, 8
    found, expected = read_examples(folder)["log_px"], np.load(io.BytesIO(examples))["log_px"]
    expected[block * size : (block + 1) * size] += 1000
    assert np.array_equal(found, expected)
    assert again["diagnostics"]["num_samples"] == 6000
    assert not kept.exists()
