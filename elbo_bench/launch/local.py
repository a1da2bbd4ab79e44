"""Trials on this machine: one process each, forked from a warm parent that has paid for the imports once."""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from elbo_bench.launch.trial import Trial

Work = Callable[[list[str], list[str]], int]
"""Runs one trial, given its words and the `--conf` folders, and returns an exit code."""


def run_trials(
    trials: Sequence[Trial],
    work: Work,
    *,
    preload: Sequence[str],
    conf: Sequence[str],
    workers: int,
    changed: Callable[[], None],
) -> None:
    """Run trials side by side until each is done or failed; what happened stands in the trials.

    Args:
        trials: Those to run; their states are kept up to date.
        work: Runs one, in a process of its own.
        preload: Modules that the warm parent imports.
        conf: The user's `--conf` folders.
        workers: How many run side by side.
        changed: Called when a trial's state changed, and now and then.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    waiting = list(trials)
    running: dict[int, tuple[Trial, multiprocessing.process.BaseProcess, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                trial = waiting.pop(0)
                arguments = (work, trial.words, list(conf), trial.log)
                process = _start(context, arguments, trial.name)
                trial.state = "running"
                running[process.sentinel] = (trial, process, time.monotonic())
                changed()
            for sentinel in multiprocessing.connection.wait(list(running), timeout=0.5):
                assert isinstance(sentinel, int)
                trial, process, started = running.pop(sentinel)
                process.join()
                _conclude(trial, process.exitcode, time.monotonic() - started)
            for trial, _, started in running.values():
                trial.seconds = time.monotonic() - started
            changed()
    except BaseException:
        _stop(running)
        changed()
        raise


def _start(
    context: multiprocessing.context.ForkServerContext, arguments: tuple[Any, ...], name: str
) -> multiprocessing.process.BaseProcess:
    """Start a process; a warm parent that was killed is replaced by the second call."""
    process = context.Process(target=_child, args=arguments, name=name)
    try:
        process.start()
    except (EOFError, OSError):
        process = context.Process(target=_child, args=arguments, name=name)
        process.start()
    return process


def _conclude(trial: Trial, exit_code: int | None, seconds: float) -> None:
    trial.seconds = seconds
    if trial.is_recorded:
        trial.state = "done"
        return
    trial.state = "stopped" if exit_code == 75 else "failed"
    trial.reason = f"{_last_word(trial.log) or 'it printed nothing'} (exit code {exit_code})"


def _last_word(log: Path) -> str:
    """Return the last line that the program itself wrote, or the last one at all."""
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    words = [line.removeprefix("elbo-bench: ") for line in lines if line.startswith("elbo-bench: ")]
    own = [line for line in words if not line.startswith("W&B")]  # its mirror's word is no reason
    return (own or lines or [""])[-1]


def _stop(running: dict[int, tuple[Trial, multiprocessing.process.BaseProcess, float]]) -> None:
    """Ask what runs to save and stop, and wait for it."""
    with _deaf():
        for _, process, _ in running.values():
            process.terminate()
        for trial, process, started in running.values():
            process.join(60)
            _conclude(trial, process.exitcode, time.monotonic() - started)
            if trial.state == "failed":
                trial.state = "stopped"  # by us, wherever it was


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore a second Ctrl-C while children save."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _child(work: Work, words: list[str], conf: list[str], log: Path) -> None:
    """Run one trial in this process, printing into its log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the sweep alone passes it on
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    threading.Thread(target=_follow_parent, daemon=True).start()
    code = work(words, conf)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _follow_parent() -> None:
    """Save and stop when the sweep is gone, however it went: an orphan would hold its run against the next sweep."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
