"""Forty trials and twenty killed workers, on each engine: every trial once, with the numbers of a calm sweep."""

import collections
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_line import start
from support.one_node_slurm import one_node_slurm, why_not
from support.sweep_runs import FORTY, children, kill_at_random, records

from elbo_bench.results.record import read_result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a sweep that nothing disturbs."""
    runs = tmp_path_factory.mktemp("calm")
    (runs / "sweep.yaml").write_text(FORTY)
    sweep = start("sweep", str(runs / "sweep.yaml"), "--workers", "2", runs=runs)
    _, error = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, error
    assert "40 computed, 0 recorded before, 0 failed" in error
    return runs


def finish(sweep: subprocess.Popen[str], runs: Path, calm: Path, stamps: dict[str, int], number: int = 40) -> None:
    """Hold a disturbed sweep that is on its way to its end against the calm one."""
    _, error = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, error
    assert "Traceback" not in error
    assert f"{number} computed, 0 recorded before, 0 failed" in error
    found, expected = records(runs), records(calm)
    assert len(found) == number
    assert found == {name: expected[name] for name in found}
    done = collections.Counter(re.findall(r"^\d+/\d+ (\S+): done", error, re.MULTILINE))
    assert set(done.values()) == {1}
    assert len(done) == number
    # What stood was not written a second time.
    assert all((runs / name / "result.json").stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    tried = [line for line in error.splitlines() if "will be tried again" in line]
    print(f"{len(stamps)} stood at the last kill; {len(tried)} were killed with nothing new saved")


def test_local_sweep_with_twenty_killed_workers(calm: Path, tmp_path: Path) -> None:
    place, runs = calm / "sweep.yaml", tmp_path / "runs"
    sweep = start("sweep", str(place), "--workers", "2", "--retries", "20", runs=runs)

    def workers() -> list[int]:
        return [worker for warm in children(sweep.pid) for worker in children(warm)]

    finish(sweep, runs, calm, kill_at_random(sweep, workers, 20, runs, seed=1))


def test_ray_cluster_of_two_nodes_with_twenty_killed_workers_and_a_lost_node(calm: Path, tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip(
        "ray.cluster_utils", reason="Ray is not installed: pip install 'elbo-bench[ray]'"
    )
    place, runs = calm / "sweep.yaml", tmp_path / "runs"
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}, shutdown_at_exit=False
    )
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        sweep = start(
            "sweep", str(place), "--engine", "ray", "--retries", "20", f"engine.address={cluster.address}", runs=runs
        )

        def workers() -> list[int]:
            found = subprocess.run(["pgrep", "-f", "^ray::digits"], capture_output=True, text=True, check=False)
            return [int(pid) for pid in found.stdout.split()]

        stamps = kill_at_random(sweep, workers, 10, runs, seed=2, most=4.0)
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        stamps |= kill_at_random(sweep, workers, 10, runs, seed=3, most=4.0)
        finish(sweep, runs, calm, stamps)
    finally:
        cluster.shutdown()


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Slurm of one node, this machine."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'elbo-bench[slurm]'")
    if reason := why_not():
        pytest.skip(f"Slurm cannot run here: {reason}")
    with one_node_slurm(tmp_path / "slurm") as variables:
        yield variables


# A job of Slurm imports torch for each trial: forty trials and twenty kills take four minutes.
@pytest.mark.parametrize(("trials", "kills"), [(10, 5)])
def test_slurm_with_killed_workers(trials: int, kills: int, calm: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    place, runs = calm / "sweep.yaml", tmp_path / "runs"
    sweep = start(
        "sweep", str(place), "--engine", "slurm", "--retries", "20", "--trials", str(trials), runs=runs, **slurm
    )

    def workers() -> list[int]:
        """Submitit's process or the run that it has started; not srun."""
        command = ["pgrep", "-f", f"submitit.core._submit {runs}"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [int(pid) for pid in found.stdout.split() if "-u -m submitit" in command_line(int(pid))]
        return [*ours, *(child for pid in ours for child in children(pid))]

    finish(sweep, runs, calm, kill_at_random(sweep, workers, kills, runs, seed=4, most=8.0), trials)


def command_line(pid: int) -> str:
    try:
        told = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return ""
    return "" if told[0].endswith(("srun", "sh", "bash")) else " ".join(told)


def test_slurm_job_whose_time_is_over_saves_goes_back_into_the_queue_and_goes_on(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    place, runs = tmp_path / "sweep.yaml", tmp_path / "runs"
    place.write_text(FORTY.replace("trainer.max_epochs: {value: 30}", "trainer.budget.seconds: {value: 40}"))
    words = [
        "engine.minutes=1",
        "engine.grace_seconds=35",
        "trainer.validate_every=null",
        "trainer.checkpoint_seconds=600",
    ]
    sweep = start(
        "sweep", str(place), "--engine", "slurm", "--trials", "1", "--retries", "0", *words, runs=runs, **slurm
    )
    _, error = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, error
    (folder,) = (each.parent for each in runs.glob("*/result.json"))
    compute = read_result(folder)["compute"]
    assert compute["ended_by"] == "seconds"
    assert 40 <= compute["train_seconds"] < 60
    (told,) = runs.glob(".jobs/*_log.err")
    assert "timed-out" in told.read_text()
    assert "1 computed" in error


def test_a_stopped_slurm_sweep_leaves_no_job_and_goes_on(tmp_path: Path, slurm: dict[str, str]) -> None:
    place, runs = tmp_path / "sweep.yaml", tmp_path / "runs"
    place.write_text(FORTY.replace("trainer.max_epochs: {value: 30}", "trainer.budget.seconds: {value: 12}"))
    words = ["--engine", "slurm", "--trials", "3"]
    sweep = start("sweep", str(place), *words, runs=runs, **slurm)
    deadline = time.monotonic() + 60
    while not list(runs.glob("*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    sweep.send_signal(signal.SIGINT)
    _, error = sweep.communicate(timeout=90)
    assert sweep.returncode == 75, error
    queue = subprocess.run(["squeue", "-h"], env=os.environ | slurm, capture_output=True, text=True, check=True)
    assert queue.stdout == ""
    _, error = start("sweep", str(place), *words, runs=runs, **slurm).communicate(timeout=120)
    assert "3 computed, 0 recorded before, 0 failed" in error
