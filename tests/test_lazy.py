"""Processes that read ahead: they give what was asked for, in order, and do not outlive whom they read for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from elbo_bench.data.lazy import ReadAhead
from elbo_bench.errors import RunFailedError

ENDLESS = """
import os, sys
from pathlib import Path
import torch
from elbo_bench.data.lazy import ReadAhead

class Rows:
    shape = torch.Size([8, 1])
    def __len__(self):
        return 8
    def __getitem__(self, ids):
        (Path(sys.argv[1]) / str(os.getpid())).touch()
        return ids[:, None].float()

if __name__ == "__main__":
    read = ReadAhead(Rows(), 2)
    while True:
        for _ in read([torch.tensor([number]) for number in range(8)]):
            pass
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_readers_end_when_the_process_that_they_read_for_is_killed(tmp_path: Path) -> None:
    script, pids = tmp_path / "endless.py", tmp_path / "pids"
    script.write_text(ENDLESS)
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen([sys.executable, str(script), str(pids)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while len(readers := [int(place.name) for place in pids.iterdir()]) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, readers)):
        assert time.monotonic() < deadline, "readers live on"
        time.sleep(0.1)


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
