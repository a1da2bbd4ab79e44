"""Weights & Biases, in a separate process: its failures do not affect the run."""

import contextlib
import dataclasses
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import NonNegativeFloat

from elbo_bench.config.typed import check_fields
from elbo_bench.output import say
from elbo_bench.tracking.none import SilentSession
from elbo_bench.tracking.tracker import RunFacts, Session, Tracker

_WAITING = 10_000
"""Largest number of messages that wait for the mirror process: hours of a run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WandbTracker(Tracker):
    """Mirrors runs to Weights & Biases.

    Attributes:
        mode: `offline` writes to the run's folder, for `wandb sync`; `online` needs an account. Under a sweep agent the
            mode is always online, since the agent does not see an offline run.
        project: Project of the run. A sweep's project takes precedence.
        entity: User or team; None is the account's default.
        finish_seconds: Longest time in seconds that a finished run waits for W&B. After that the mirror process
            continues alone.
    """

    mode: Literal["offline", "online"] = "offline"
    project: str = "elbo-bench"
    entity: str | None = None
    finish_seconds: NonNegativeFloat = 15.0

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, facts: RunFacts) -> Session:
        """Start the mirror process of a run."""
        if os.environ.get("WANDB_MODE") == "disabled":  # W&B's own switch
            return SilentSession()
        sweep = os.environ.get("WANDB_SWEEP_ID")
        mode = "online" if sweep else self.mode
        # A resumed run logs everything again from its beginning, so an earlier offline mirror is removed.
        for stale in (facts.folder / "wandb").glob("offline-run-*"):
            shutil.rmtree(stale, ignore_errors=True)
        hello = {
            "mode": mode,
            "project": self.project,
            "entity": self.entity,
            "id": None if sweep else facts.run_id,
            "name": facts.run_id,
            "group": facts.group,
            "job_type": facts.job_type,
            "dir": str(facts.folder.resolve()),
            "config": {"cfg": dict(facts.cfg)},
            "watched_pid": os.getpid(),
        }
        return WandbSession(hello, facts.folder, self.finish_seconds)


class WandbSession(Session):
    """A mirrored run: lines of JSON on the standard input of `mirror.py`.

    A thread writes the lines, since the pipe to a mirror that hangs is full at some time. Messages that do not fit into
    its queue are dropped: training does not wait, and the record is complete anyway.
    """

    def __init__(self, hello: Mapping[str, Any], folder: Path, finish_seconds: float) -> None:
        self._finish_seconds = finish_seconds
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=_WAITING)
        # These variables give a process its rank. The mirror has none.
        ranks = ("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE")
        environment = {key: value for key, value in os.environ.items() if key not in ranks}
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "wandb.log"
        with contextlib.suppress(OSError), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "elbo_bench.tracking.mirror"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,  # a reader of the run's output does not wait for the mirror
                env=environment,
                start_new_session=True,  # Ctrl-C stops the run only; the mirror ends after it
            )
            self._writer = threading.Thread(target=_write, args=(self._process.stdin, self._lines), daemon=True)
            self._writer.start()
        self._send({"hello": dict(hello)})

    def log(self, values: Mapping[str, Any]) -> None:
        """Send values, unless the queue is full."""
        self._send({"log": dict(values)})

    def finish(self, folder: Path) -> None:
        """Send the path of the record, and wait `finish_seconds` at most."""
        self._close({"finish": str(folder.resolve())})

    def abandon(self, exit_code: int) -> None:
        """Send that there is no record."""
        self._close({"abandon": exit_code})

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is not None:
            with contextlib.suppress(queue.Full):
                self._lines.put_nowait(json.dumps(message).encode() + b"\n")

    def _close(self, last: Mapping[str, Any]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        deadline = time.monotonic() + self._finish_seconds
        try:
            self._lines.put(json.dumps(last).encode() + b"\n", timeout=self._finish_seconds)
            self._lines.put(None, timeout=max(0.0, deadline - time.monotonic()))
            process.wait(max(0.0, deadline - time.monotonic()))
        except (queue.Full, subprocess.TimeoutExpired):
            process.returncode = 0  # the mirror continues alone, so that Popen does not warn
            say("W&B is slow: the upload continues in the background")
        with contextlib.suppress(OSError, UnicodeDecodeError):
            for line in self._log.read_text(encoding="utf-8").splitlines():
                if line.startswith("elbo-bench: "):
                    say(line.removeprefix("elbo-bench: "))
            if not self._log.stat().st_size:
                self._log.unlink()


def _write(pipe: IO[bytes], lines: "queue.Queue[bytes | None]") -> None:
    """Write lines into a pipe until the last one, or until nobody reads."""
    with contextlib.suppress(OSError, ValueError):
        while (line := lines.get()) is not None:
            pipe.write(line)
            pipe.flush()
    with contextlib.suppress(OSError):
        pipe.close()
