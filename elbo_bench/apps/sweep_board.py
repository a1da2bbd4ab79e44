"""How far a sweep is: a live table on a terminal, and a line for each change elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from elbo_bench.apps.terminal import duration
from elbo_bench.errors import UsageError
from elbo_bench.launch.trial import Trial
from elbo_bench.report.row import contract
from elbo_bench.results.record import read_result

_ENDED = ("done", "recorded", "failed", "stopped")
_ORDER = ("failed", "running", "queued", "elsewhere", "waiting", "stopped", "done", "recorded")
_ROWS = 30
"""Trials in the live table: a screen holds no more."""


@contextlib.contextmanager
def shown(trials: Sequence[Trial], metric: str, *, maximize: bool) -> Iterator[Callable[[], None]]:
    """Show trials on stderr; what it yields is called when one may have changed.

    Args:
        trials: All of a sweep.
        metric: Whose best value so far is shown, for each data contract.
        maximize: Whether more of it is better.
    """
    best = _Best(metric, maximize)
    if sys.stderr.isatty():
        with Live(_table(trials, best), console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
            yield lambda: live.update(_table(trials, best))
        return
    said: dict[str, tuple[str, int]] = {}

    def changed() -> None:
        for trial in trials:
            now = (trial.state, trial.failures)
            if said.get(trial.name, ("waiting", 0)) != now and trial.state != "queued":
                said[trial.name] = now
                print(_line(trial, trials), file=sys.stderr, flush=True)  # noqa: T201

    changed()
    yield changed
    for line in best.lines(trials):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _line(trial: Trial, trials: Sequence[Trial]) -> str:
    count = sum(each.state in _ENDED for each in trials)
    after = f" after {trial.seconds:.0f} s" if trial.state in _ENDED and trial.seconds else ""
    if trial.state == "waiting":
        return f"{count}/{len(trials)} {trial.name}: will be tried again: {trial.reason}"
    left = seconds_left(trials) if trial.state == "done" else ""
    return f"{count}/{len(trials)} {trial.name}: {trial.state}{after}{left}"


def _table(trials: Sequence[Trial], best: "_Best") -> Group:
    counts = {state: sum(trial.state == state for trial in trials) for state in _ORDER if state != "waiting"}
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    table = Table(title=Text(f"{title or 'starting'} of {len(trials)}{seconds_left(trials)}"), title_justify="left")
    for column in ("trial", "state", "seconds", "tries"):
        table.add_column(column)
    for trial in sorted(trials, key=lambda each: _ORDER.index(each.state))[:_ROWS]:
        seconds = f"{trial.seconds:.0f}" if trial.seconds else ""
        table.add_row(Text(trial.name), trial.state, seconds, str(trial.failures + 1) if trial.failures else "")
    more = [Text(f"and {len(trials) - _ROWS} more")] if len(trials) > _ROWS else []
    return Group(table, *more, *map(Text, best.lines(trials)))


def seconds_left(trials: Sequence[Trial]) -> str:
    """Return in words how long the rest will take, if trials that are done let it be guessed."""
    times = [trial.seconds for trial in trials if trial.state == "done" and trial.seconds]
    waiting = sum(trial.state in ("waiting", "queued") for trial in trials)
    running = [trial for trial in trials if trial.state == "running"]
    if not times or not waiting + len(running):
        return ""
    mean = sum(times) / len(times)
    work = waiting * mean + sum(max(0.0, mean - trial.seconds) for trial in running)
    return f", about {duration(work / max(1, len(running)))} left"


class _Best:
    """The best value of a metric among the records that stand, for each data contract; each record is read once."""

    def __init__(self, metric: str, maximize: bool) -> None:
        self._metric, self._sign = metric, 1 if maximize else -1
        self._read: dict[str, tuple[tuple[str, ...], str, float] | None] = {}

    def lines(self, trials: Sequence[Trial]) -> list[str]:
        """Return a line for each data set, of which there are three at most."""
        for trial in trials:
            if trial.state in ("done", "recorded") and trial.name not in self._read:
                self._read[trial.name] = self._value(trial)
        best: dict[tuple[str, ...], tuple[float, str, str]] = {}
        for name, found in self._read.items():
            if found is not None:
                key, data, value = found
                if key not in best or self._sign * value > self._sign * best[key][0]:
                    best[key] = (value, name, data)
        return [
            f"best {self._metric} so far on {data}: {value:.2f}, {name}"
            for value, name, data in sorted(best.values(), key=lambda each: each[2])[:3]
        ]

    def _value(self, trial: Trial) -> tuple[tuple[str, ...], str, float] | None:
        try:
            result: dict[str, Any] = read_result(trial.folder)
            return contract(result), result["data"]["name"], float(result["metrics"][self._metric]["value"])
        except (UsageError, KeyError):  # of another version, or without that metric: the leaderboard says so
            return None
