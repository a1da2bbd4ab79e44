"""Trials handed to an engine until each is done or has failed for good, whatever is killed."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from elbo_bench.launch.engine import Engine
from elbo_bench.launch.task import Task
from elbo_bench.launch.trial import Trial
from elbo_bench.results.claim import is_claimed

_STOPPED = 75
"""Exit code of a run that a signal ended after it had saved, or that another launcher has."""

_BAD_INPUT = 2
"""Exit code of a run that can never be: it is not tried again."""


def run_trials(
    trials: Sequence[Trial],
    engine: Engine,
    task_of: Callable[[Trial], Task],
    *,
    retries: int,
    changed: Callable[[], None],
) -> None:
    """Run trials side by side; what happened stands in them.

    A trial that is killed or stopped goes on from what it had saved. If it had saved nothing new, or fails, it is tried
    again at most `retries` times. One that another launcher computes is looked at now and then until its record stands.

    Args:
        trials: Those to run; their states are kept up to date.
        engine: What runs them.
        task_of: Returns the task of a trial, which is sent to a process.
        retries: How often a trial may fail and be tried again.
        changed: Called when a trial's state changed, and now and then.
    """
    loop = _Loop(trials, engine, task_of, retries)
    try:
        while loop.turn():
            changed()
    except BaseException:
        loop.stop()
        raise
    finally:
        changed()


class _Loop:
    def __init__(self, trials: Sequence[Trial], engine: Engine, task_of: Callable[[Trial], Task], retries: int) -> None:
        self._waiting = list(trials)
        self._tried: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._running: dict[str, _Attempt] = {}
        self._engine, self._task_of, self._retries = engine, task_of, retries

    def turn(self) -> bool:
        """Start what can be started, wait a little, note what has ended; return whether anything is left."""
        for trial in list(self._waiting):
            if self._not_before.get(trial.name, 0.0) > time.monotonic():
                continue
            task = self._task_of(trial)
            if not self._engine.has_room(task):
                break
            if trial.is_recorded:
                # By a process of ours that outlived the one that was killed, or by another launcher.
                trial.state = "done" if trial.name in self._tried else "recorded"
                self._waiting.remove(trial)
            elif is_claimed(trial.folder):
                self._later(trial)
            else:
                self._running[trial.name] = _Attempt(trial)
                self._tried.add(trial.name)
                self._engine.start(trial.name, task)
                self._waiting.remove(trial)
        if not self._running:
            time.sleep(0.5 if self._waiting else 0.0)
            return bool(self._waiting)
        for name, code in self._engine.ended(0.5):
            attempt = self._running.pop(name)
            attempt.look()
            self._conclude(attempt, code)
        for attempt in self._running.values():
            attempt.look()
        return bool(self._waiting or self._running)

    def _conclude(self, attempt: "_Attempt", code: int | None) -> None:
        trial = attempt.trial
        if code == _STOPPED and is_claimed(trial.folder):
            self._tried.discard(trial.name)
            self._later(trial)
            self._waiting.append(trial)
            return
        if trial.is_recorded:
            trial.state = "done"
            return
        trial.reason = f"{trial.last_word() or 'it printed nothing'} ({_end(code)})"
        interrupted = code is None or code < 0 or code == _STOPPED
        trial.failures += not (interrupted and attempt.has_saved)
        if code == _BAD_INPUT or trial.failures > self._retries:
            trial.state = "failed"
            return
        trial.state = "waiting"
        self._waiting.append(trial)

    def _later(self, trial: Trial) -> None:
        trial.state = "elsewhere"
        self._not_before[trial.name] = time.monotonic() + self._engine.pause

    def stop(self) -> None:
        """Ask what runs to save and stop, and wait for it; a second Ctrl-C meanwhile is not heard."""
        with _deaf():
            self._engine.stop()
        for attempt in self._running.values():
            attempt.look()
            trial = attempt.trial
            if trial.state == "queued":
                trial.state = "waiting"
                continue
            trial.state = "done" if trial.is_recorded else "stopped"
            trial.reason = f"{trial.last_word() or 'it printed nothing'}"


class _Attempt:
    """A trial that was handed over, and since when it runs: what an engine queues has written no log yet."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self._before = trial.seconds
        self._saved = trial.saved()
        self._started: float | None = None
        trial.log.unlink(missing_ok=True)
        trial.state = "queued"

    @property
    def has_saved(self) -> bool:
        """Whether the run has saved something new."""
        return self.trial.saved() > self._saved

    def look(self) -> None:
        """Note whether it runs by now, and how long."""
        if self._started is None and self.trial.log.exists():
            self._started, self.trial.state = time.monotonic(), "running"
        if self._started is not None:
            self.trial.seconds = self._before + time.monotonic() - self._started


def _end(code: int | None) -> str:
    if code is None:
        return "its process was lost"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore a second Ctrl-C while runs save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
