"""Processes that others start: two machines by hand, torchrun, srun; and what is left when one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
from support.command_line import run, start
from support.one_node_slurm import one_node_slurm, why_not

from elbo_bench.cli import main
from elbo_bench.ranks import is_first, others_were_started, started_by_others
from elbo_bench.results.record import read_result

TINY = [
    "model.hidden=[16]",
    "model.latent_dim=4",
    "evaluation.num_samples=40",
    "evaluation.num_examples=70",
    "trainer.validate_every=null",
    "trainer.accelerator=cpu",
    "tracking=none",
]
STEPS = "trainer.max_steps=60"
TWO_NODES = ["trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def finish(*processes: subprocess.Popen[str]) -> None:
    told = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("alone")
    finish(start("train", *TINY, STEPS, runs=runs))
    (folder,) = runs.iterdir()
    return folder


def same(folder: Path, alone: Path, ranks: int) -> None:
    """Hold the parameters after 60 steps against those of one process, and count the records."""
    assert read_result(folder)["compute"]["world_size"] == ranks
    one, many = (safetensors.torch.load_file(each / "model.safetensors") for each in (alone, folder))
    worst = max(float((one[name] - many[name]).abs().max()) for name in one)
    print(f"{ranks} processes: parameters differ by {worst:.1e} at most")
    assert worst < 1e-6
    assert folder.name == alone.name
    assert len(list(folder.parent.iterdir())) == 1


def free_port() -> str:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_train_to_the_same_parameters(ranks: int, alone: Path, tmp_path: Path) -> None:
    finish(start("train", *TINY, STEPS, f"trainer.devices={ranks}", "trainer.strategy=ddp", runs=tmp_path))
    (folder,) = tmp_path.iterdir()
    same(folder, alone, ranks)


@pytest.mark.slow
def test_two_nodes_started_by_hand(alone: Path, tmp_path: Path) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [start("train", *TINY, STEPS, *TWO_NODES, runs=tmp_path, NODE_RANK=str(node), **where) for node in (1, 0)]
    finish(*nodes)
    (folder,) = tmp_path.iterdir()
    same(folder, alone, 2)


@pytest.mark.slow
def test_torchrun_on_one_machine_and_on_two(alone: Path, tmp_path: Path) -> None:
    here = [*TORCHRUN, "--nproc-per-node=2", "--standalone"]
    finish(
        start("train", *TINY, STEPS, "trainer.devices=2", "trainer.strategy=ddp", runs=tmp_path / "one", python=here)
    )
    port = free_port()
    agents = [
        start(
            "train",
            *TINY,
            STEPS,
            *TWO_NODES,
            runs=tmp_path / "two",
            python=[*TORCHRUN, "--nnodes=2", f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"],
        )
        for node in (1, 0)
    ]
    finish(*agents)
    for name in ("one", "two"):
        (folder,) = (tmp_path / name).iterdir()
        same(folder, alone, 2)


@pytest.mark.slow
def test_srun_starts_the_ranks_and_a_job_of_one_task_starts_its_own(alone: Path, tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(f"Slurm cannot run here: {reason}")
    with one_node_slurm(tmp_path / "slurm") as variables:
        for name, tasks in (("by_slurm", 2), ("by_lightning", 1)):
            srun = ["srun", f"--ntasks-per-node={tasks}", f"--ntasks={tasks}", sys.executable]
            words = ["trainer.devices=2", "trainer.strategy=ddp"]
            finish(start("train", *TINY, STEPS, *words, runs=tmp_path / name, python=srun, **variables))
            (folder,) = (tmp_path / name).iterdir()
            same(folder, alone, 2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_when_one_is_killed_all_end_at_once_and_the_run_goes_on(victim: str, tmp_path: Path) -> None:
    words = ["trainer.budget.seconds=30", "trainer.checkpoint_seconds=0.3", "trainer.devices=2", "trainer.strategy=ddp"]
    main_process = start("train", *TINY, *words, runs=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-P", str(main_process.pid)], capture_output=True, text=True, check=True)
    (other,) = map(int, found.stdout.split())
    os.kill(main_process.pid if victim == "first" else other, signal.SIGKILL)
    killed = time.monotonic()
    _, error = main_process.communicate(timeout=60)
    assert "Traceback" not in error
    if victim == "second":
        assert main_process.returncode == 3
        (line,) = [line for line in error.splitlines() if line.startswith("elbo-bench: ")]
        assert line.startswith("elbo-bench: another process of this run ended")
    while Path(f"/proc/{other}").exists() and "Z" not in Path(f"/proc/{other}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < killed + 20
        time.sleep(0.05)
    print(f"all were gone after {time.monotonic() - killed:.1f} s")
    # Nobody holds the run, and it goes on from where it was.
    finish(start("train", *TINY, *words[:-2], runs=tmp_path))
    (folder,) = tmp_path.iterdir()
    assert read_result(folder)["compute"]["ended_by"] == "seconds"


@pytest.mark.slow
def test_one_run_in_wandb_however_many_processes(tmp_path: Path) -> None:
    words = [STEPS, "trainer.devices=2", "trainer.strategy=ddp", "tracking.finish_seconds=60"]
    run("train", *TINY[:-1], *words, runs=tmp_path, WANDB_MODE="offline")
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 1


@pytest.mark.parametrize(
    ("told", "first", "others", "number"),
    [
        ({}, True, False, None),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False, True, None),
        ({"NODE_RANK": "1"}, False, True, None),
        ({"NODE_RANK": "0"}, True, True, None),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False, True, 4),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True, True, 4),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, False, True, 2),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, True, True, 2),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, True, False, None),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, True, False, None),  # a batch script, without srun
    ],
)
def test_who_is_first(
    told: dict[str, str], first: bool, others: bool, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC"))] + ["RANK", "LOCAL_RANK"]:
        monkeypatch.delenv(name, raising=False)
    for name in ("NODE_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (is_first(), others_were_started(), started_by_others()) == (first, others, number)


def test_nodes_that_do_not_know_of_each_other_are_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", *TINY, STEPS, *TWO_NODES]) == 2
    assert "set MASTER_ADDR, MASTER_PORT, NODE_RANK on each machine" in capsys.readouterr().err
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *TINY, STEPS, "trainer.devices=2", "trainer.strategy=ddp"]) == 2
    assert "make 2 processes, and 3 were started" in capsys.readouterr().err
    assert not Path("runs").exists()
