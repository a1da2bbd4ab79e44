"""Processes that read ahead: they give what was asked for, in order, and do not outlive whom they read for."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.command_line import start

from elbo_bench.data.lazy import ReadAhead
from elbo_bench.errors import RunFailedError


def processes_with(mark: str) -> list[int]:
    """Return the processes whose environment holds a mark."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in place.read_bytes():
                found.append(int(place.parent.name))
        except OSError:  # it has ended, or is not ours
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system does not list processes as files")
def test_readers_end_when_the_run_that_they_read_for_is_killed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (2000, 8, 8), dtype=np.uint8))
    words = ["data=array", "data.path=x.npy", "data.values=dynamic", "data.in_memory=false", "tracking=none"]
    runs = tmp_path / "runs"
    process = start("train", *words, "trainer.max_epochs=100000", "trainer.checkpoint_seconds=0.2", runs=runs)
    mark = f"ELBO_BENCH_RUNS={runs}"
    try:
        deadline = time.monotonic() + 120
        while not list(runs.rglob("last.ckpt")):  # in the middle of training
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(processes_with(mark)) >= 3, "the run and its two readers"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()  # not `communicate`: the readers hold the pipes open
    deadline = time.monotonic() + 30
    while left := processes_with(mark):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError("readers live on")
        time.sleep(0.1)
    process.communicate()


class Numbers:
    """Rows that are their numbers, but for one that cannot be read."""

    shape = torch.Size([20, 1])

    def __len__(self) -> int:
        return 20

    def __getitem__(self, ids: torch.Tensor) -> torch.Tensor:
        if 13 in ids:
            raise RunFailedError("row 13 is broken")
        return ids[:, None].float()


def test_batches_come_in_the_order_that_they_are_asked_for_again_and_again() -> None:
    read = ReadAhead(Numbers(), 0)
    for batches in ([[3, 1], [7], [2, 4, 6]], [[0]], []):
        asked = [torch.tensor(batch) for batch in batches]
        assert [rows[:, 0].int().tolist() for rows in read(asked)] == batches
    given = read([torch.tensor([1]), torch.tensor([12, 13]), torch.tensor([2])])
    assert next(given).item() == 1
    with pytest.raises(RunFailedError, match=r"^row 13 is broken$"):
        next(given)
