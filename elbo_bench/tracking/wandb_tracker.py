"""Weights & Biases, from a process of its own: what happens to it does not happen to the run."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import NonNegativeFloat

from elbo_bench.tracking.none import SilentSession
from elbo_bench.tracking.tracker import RunFacts, Session, Tracker
from elbo_bench.typed import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class WandbTracker(Tracker):
    """Mirrors runs to Weights & Biases.

    Attributes:
        mode: `offline` writes below the run's folder, for `wandb sync`; `online` needs an account. Under a sweep agent
            it is always online: the agent does not see an offline run.
        project: Project of the run; a sweep's own goes first.
        entity: User or team; None is the account's default.
        finish_seconds: How long a run that is done waits for W&B; afterwards the mirror goes on alone.
    """

    mode: Literal["offline", "online"] = "offline"
    project: str = "elbo-bench"
    entity: str | None = None
    finish_seconds: NonNegativeFloat = 15.0

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, facts: RunFacts) -> Session:
        """Begin to mirror a run."""
        if os.environ.get("WANDB_MODE") == "disabled":  # W&B's own switch
            return SilentSession()
        sweep = os.environ.get("WANDB_SWEEP_ID")
        mode = "online" if sweep else self.mode
        if mode == "offline":  # what was stopped is told again from its beginning: one mirror a run
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
        return WandbSession(hello, self.finish_seconds)


class WandbSession(Session):
    """A run being mirrored: lines of JSON into the standard input of `mirror.py`."""

    def __init__(self, hello: Mapping[str, Any], finish_seconds: float) -> None:
        self._finish_seconds = finish_seconds
        self._process: subprocess.Popen[bytes] | None = None
        # Ranks are told apart by these; the mirror is none of them.
        environment = {
            key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")
        }
        root = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "elbo_bench.tracking.mirror"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the run; the mirror ends after it
            )
        self._send({"hello": dict(hello)})

    def log(self, values: Mapping[str, Any]) -> None:
        """Send numbers."""
        self._send({"log": dict(values)})

    def finish(self, folder: Path) -> None:
        """Send where the record lies, and wait a little."""
        self._send({"finish": str(folder.resolve())})
        self._close()

    def abandon(self, exit_code: int) -> None:
        """Say that there is no record."""
        self._send({"abandon": exit_code})
        self._close()

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = self._pipe()
        if pipe is None:
            return
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except (OSError, ValueError):
            self._process = None  # the mirror died: the run goes on without

    def _pipe(self) -> IO[bytes] | None:
        return None if self._process is None else self._process.stdin

    def _close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(self._finish_seconds)
        except subprocess.TimeoutExpired:
            process.returncode = 0  # it goes on alone; Popen need not warn of it
            print("elbo-bench: W&B is slow: its mirror goes on in the background", file=sys.stderr)  # noqa: T201
