"""Sweeps in processes of their own, for tests that kill them, and what they leave."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from elbo_bench.results.record import read_result

FORTY = """
method: grid
parameters:
  objective: {values: [elbo_mc, {name: iwae, num_samples: 4}]}
  model.hidden: {value: [16]}
  model.latent_dim: {value: 4}
  trainer.max_epochs: {value: 30}
  trainer.validate_every: {value: 5}
  trainer.checkpoint_seconds: {value: 0.1}
  evaluation.num_samples: {value: 40}
  evaluation.num_examples: {value: 100}
  tracking.name: {value: none}
  seed: {min: 0, max: 19}
"""


def records(runs: Path) -> dict[str, tuple[str, bytes]]:
    """What each trial of a sweep came to: its metrics and its rows."""
    return {
        place.parent.name: (
            json.dumps(read_result(place.parent)["metrics"]),
            (place.parent / "examples.npz").read_bytes(),
        )
        for place in runs.glob("*/result.json")
    }


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(each) for each in found.stdout.split()]


def kill_at_random(
    sweep: subprocess.Popen[str],
    workers: Callable[[], list[int]],
    number: int,
    runs: Path,
    *,
    seed: int,
    most: float = 2.0,
) -> dict[str, int]:
    """Kill so many workers, `most` seconds apart; return when each record that stood by then was written.

    Nothing is waited for but a moment: a worker may be killed while it starts, trains, saves, evaluates or records.
    """
    chance, killed = random.Random(seed), 0
    stamps: dict[str, int] = {}
    deadline = time.monotonic() + 500
    while killed < number:
        assert sweep.poll() is None, f"the sweep ended after {killed} kills: {sweep.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(chance.uniform(0.2, most))
        if running := workers():
            try:
                os.kill(chance.choice(running), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        for result in runs.glob("*/result.json"):
            stamps.setdefault(result.parent.name, result.stat().st_mtime_ns)
    return stamps
