"""The task of a process: a trial as plain values, which can be sent to any machine."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from elbo_bench.output import safe_output

Run = Callable[[list[str], list[str]], int]
"""Runs one trial, given its words and the `--conf` folders, and returns an exit code."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One attempt at a trial.

    Attributes:
        run: Runs it.
        words: Its `key=value` words.
        conf: The user's `--conf` folders, absolute.
        log: File that takes what it prints.
        environment: Variables that it needs: where runs and data lie.
        processes: How many it starts on one machine, each for a device of its own.
    """

    run: Run
    words: list[str]
    conf: list[str]
    log: Path
    environment: dict[str, str]
    processes: int = 1

    def command(self) -> list[str]:
        """Return the command line that does the same in a process of its own."""
        folders = [word for each in self.conf for word in ("--conf", each)]
        return [sys.executable, "-m", "elbo_bench", "train", *self.words, *folders]

    def __call__(self) -> int:
        """Run the trial in this process, printing into its log, and return its exit code."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        os.environ.update(self.environment)
        sys.stdout.flush()
        sys.stderr.flush()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        before = {stream: os.dup(stream) for stream in (1, 2)}  # a process may serve several trials
        try:
            for stream in before:
                os.dup2(log, stream)
            with safe_output():
                return self.run(list(self.words), list(self.conf))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, kept in before.items():
                os.dup2(kept, stream)
                os.close(kept)
            os.close(log)
