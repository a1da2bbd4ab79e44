"""`elbo-bench sweep`: many runs, from one file; a second call goes on where the first stopped."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from elbo_bench import config
from elbo_bench.apps.leaderboard import show
from elbo_bench.apps.paths import find_sweep, runs_root
from elbo_bench.apps.pinning import pinned
from elbo_bench.catalogue import Catalogue, Config
from elbo_bench.errors import BusyError, ElboBenchError, RunFailedError, StoppedError
from elbo_bench.launch.expand import expand
from elbo_bench.launch.local import run_trials
from elbo_bench.launch.trial import Trial


def run(arguments: argparse.Namespace) -> None:
    """Run what is not recorded yet, list what failed and why, and print the leaderboard of the sweep.

    Raises:
        UsageError: The file is no sweep, or one of its trials is no configuration; nothing was started.
        RunFailedError: A trial failed.
    """
    started = time.monotonic()
    place = find_sweep(arguments.sweep)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    trials = make_trials(expand(place), arguments)
    workers = min(arguments.workers or cores, max(1, len(trials)))
    for trial in trials:
        if trial.is_recorded:
            trial.state = "recorded"
    waiting = [trial for trial in trials if trial.state != "recorded"]
    for trial in waiting:
        if not any(word.startswith("evaluation.workers=") for word in trial.words):
            trial.words.append(f"evaluation.workers={max(1, cores // workers)}")  # placement: it changes no number
    conf = [str(Path(folder).resolve()) for folder in arguments.conf]
    with _shown(trials) as changed:
        run_trials(waiting, run_trial, preload=["elbo_bench.apps.train"], conf=conf, workers=workers, changed=changed)
    done = [trial for trial in trials if trial.is_recorded]
    if done:
        show([trial.folder for trial in done], arguments.format)
    _conclude(trials, time.monotonic() - started)


def make_trials(cells: Sequence[list[str]], arguments: argparse.Namespace) -> list[Trial]:
    """Return the trials of some cells; two cells that are the same run are one trial.

    Raises:
        UsageError: A cell is no configuration.
    """
    catalogue = Catalogue.of(arguments.conf)
    root, trials = runs_root(), {}  # type: Path, dict[str, Trial]
    given = {word.partition("=")[0] for word in arguments.overrides}
    if len(cells) > 20:
        print(f"checking {len(cells)} trials", file=sys.stderr, flush=True)  # noqa: T201
    for cell in cells:
        words = [*(word for word in cell if word.partition("=")[0] not in given), *arguments.overrides]
        cfg = pinned(config.check(config.resolve(words, catalogue), catalogue), catalogue)
        name = config.run_id(cfg)
        trials.setdefault(name, Trial(words, cfg, root / name, root / ".logs" / f"{name}.txt"))
    return list(trials.values())


def run_trial(words: list[str], conf: list[str]) -> int:
    """Train, evaluate and record one trial, in a process of its own, and return its exit code."""
    from elbo_bench.apps.train import train  # here, where the warm parent has imported it

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    catalogue = Catalogue.of(conf)
    try:
        cfg = pinned(config.check(config.resolve(words, catalogue), catalogue), catalogue)
        folder = runs_root() / config.run_id(cfg)
        while not (folder / "result.json").is_file():
            if _wants_ranks(cfg):  # ranks are started by running the same command again
                folders = [word for each in conf for word in ("--conf", each)]
                command = [sys.executable, "-m", "elbo_bench", "train", *words, *folders]
                return _in_a_process(command)
            try:
                train(cfg, catalogue, folder)
            except BusyError:
                time.sleep(1)  # another sweep computes it: its record will do
    except ElboBenchError as error:
        print(f"elbo-bench: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return StoppedError.exit_code
    return 0


def _in_a_process(command: list[str]) -> int:
    """Run a command, pass on the signal that stops this process, and return its exit code."""
    process = subprocess.Popen(command)  # noqa: S603
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait(60)


def _wants_ranks(cfg: Config) -> bool:
    trainer = cfg["trainer"]
    return trainer.get("devices") not in ("auto", 1, "1", [0]) or trainer.get("num_nodes", 1) != 1


@contextlib.contextmanager
def _shown(trials: Sequence[Trial]) -> Iterator[Callable[[], None]]:
    """Show a live table on a terminal, and a line for each change elsewhere; both on stderr."""
    if sys.stderr.isatty():
        with Live(_table(trials), console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
            yield lambda: live.update(_table(trials))
        return
    said: dict[str, str] = {}

    def changed() -> None:
        for trial in trials:
            if said.get(trial.name) != trial.state and trial.state != "waiting":
                said[trial.name] = trial.state
                ended = ("done", "recorded", "failed", "stopped")
                count = sum(each.state in ended for each in trials)
                after = f" after {trial.seconds:.0f} s" if trial.seconds else ""
                line = f"{count}/{len(trials)} {trial.name}: {trial.state}{after}"
                print(line, file=sys.stderr, flush=True)  # noqa: T201

    changed()
    yield changed


def _table(trials: Sequence[Trial]) -> Table:
    counts = {
        state: sum(trial.state == state for trial in trials) for state in ("done", "recorded", "running", "failed")
    }
    left = _seconds_left(trials)
    title = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    table = Table(title=Text(f"{title or 'starting'} of {len(trials)}{left}"), title_justify="left")
    for column in ("trial", "state", "seconds"):
        table.add_column(column)
    order = {"failed": 0, "running": 1, "waiting": 2, "stopped": 3, "done": 4, "recorded": 5}
    for trial in sorted(trials, key=lambda each: order[each.state])[:30]:  # a screen holds no more
        table.add_row(Text(trial.name), trial.state, f"{trial.seconds:.0f}" if trial.seconds else "")
    return table


def _seconds_left(trials: Sequence[Trial]) -> str:
    times = [trial.seconds for trial in trials if trial.state == "done"]
    waiting = sum(trial.state == "waiting" for trial in trials)
    running = [trial for trial in trials if trial.state == "running"]
    if not times or not running:
        return ""
    mean = sum(times) / len(times)
    work = waiting * mean + sum(max(0.0, mean - trial.seconds) for trial in running)
    return f", about {work / len(running):.0f} s left"


def _conclude(trials: Sequence[Trial], seconds: float) -> None:
    failed = [trial for trial in trials if trial.state in ("failed", "stopped")]
    recorded = sum(trial.state == "recorded" for trial in trials)
    done = sum(trial.state == "done" for trial in trials)
    for trial in failed:
        print(f"elbo-bench: {trial.name} {trial.state}: {trial.reason}; log: {trial.log}", file=sys.stderr)  # noqa: T201
    print(  # noqa: T201
        f"{done} computed, {recorded} recorded before, {len(failed)} failed, in {seconds:.0f} s; "
        f"everything is in {runs_root().resolve()}",
        file=sys.stderr,
    )
    if failed:
        raise RunFailedError(f"{len(failed)} of {len(trials)} trials did not finish; the same command tries them again")
