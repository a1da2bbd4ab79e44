"""How far a sweep is: a live table on a terminal, and a line for each change elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from elbo_bench.errors import UsageError, nearest
from elbo_bench.launch.trial import Trial
from elbo_bench.report.console import duration
from elbo_bench.report.row import contract
from elbo_bench.results.record import read_result

_ENDED = ("done", "recorded", "failed", "stopped")
_ORDER = ("failed", "running", "queued", "elsewhere", "waiting", "stopped", "done", "recorded")
_ROWS = 30
"""Trials in the live table: a screen holds no more."""


@contextlib.contextmanager
def shown(trials: Sequence[Trial], metric: str, *, maximize: bool | None) -> Iterator[Callable[[], None]]:
    """Show the trials of a sweep on stderr, and at the end the best value of a metric.

    Args:
        trials: All trials of the sweep.
        metric: The metric whose best value is shown, for each data contract.
        maximize: Whether its largest value is the best; None if that is not known, and no best value is shown.

    Yields:
        A function to call when a trial may have changed.
    """
    best = _Best(metric, maximize)
    if sys.stderr.isatty():
        with Live(_table(trials, best), console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
            yield lambda: live.update(_table(trials, best))
    else:
        said: dict[str, tuple[str, int]] = {}

        def changed() -> None:
            for trial in trials:
                now = (trial.state, trial.failures)
                if said.get(trial.name, ("waiting", 0)) != now and trial.state != "queued":
                    said[trial.name] = now
                    print(_line(trial, trials), file=sys.stderr, flush=True)  # noqa: T201

        changed()
        yield changed
    for line in [*best.lines(trials), *best.missing()]:
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
    """The best value of a metric for each data contract. Each record is read once."""

    def __init__(self, metric: str, maximize: bool | None) -> None:
        self._metric, self._maximize = metric, maximize
        self._read: set[str] = set()
        self._values: list[tuple[float, str, str, str]] = []  # value, trial, data set, data contract
        self._names: set[str] = set()

    def lines(self, trials: Sequence[Trial]) -> list[str]:
        """Return a line for each of at most three data contracts."""
        for trial in trials:
            if trial.state in ("done", "recorded") and trial.name not in self._read:
                self._read.add(trial.name)
                self._add(trial)
        if self._maximize is None:
            return []
        ranked = sorted(self._values, key=lambda each: each[0], reverse=self._maximize)
        best = {found[3]: found for found in reversed(ranked)}.values()  # the first of each contract stays
        return [
            f"best {self._metric} so far on {data}: {value:.2f}, {name}"
            for value, name, data, _ in sorted(best, key=lambda each: each[2])[:3]
        ]

    def missing(self) -> list[str]:
        """Return a line if there are records, but none of them has the metric."""
        if self._values or not self._names:
            return []
        return [f"elbo-bench: metric: no record has {self._metric!r}; {nearest(self._metric, self._names)}"]

    def _add(self, trial: Trial) -> None:
        with contextlib.suppress(UsageError, KeyError):  # a record of another version: the leaderboard says so
            result = read_result(trial.folder)
            key, data = contract(result), result["data"]["name"]
            self._names |= result["metrics"].keys()
            if self._metric in result["metrics"]:
                self._values.append((float(result["metrics"][self._metric]["value"]), trial.name, data, key))
