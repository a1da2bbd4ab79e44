"""`elbo-bench sweep`: many runs, from one file; a second call goes on where the first stopped."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from elbo_bench import config
from elbo_bench.commands.leaderboard import ranked, show, write_page
from elbo_bench.config.catalogue import Catalogue, Config
from elbo_bench.config.overrides import parse_overrides
from elbo_bench.data.reading.files import data_root
from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.files import find_sweep, runs_root
from elbo_bench.launch.board import shown
from elbo_bench.launch.engine import Engine
from elbo_bench.launch.expand import Sweep, expand
from elbo_bench.launch.run_trials import run_trials
from elbo_bench.launch.slots import cpu_cores
from elbo_bench.launch.task import Task
from elbo_bench.launch.trial import Trial
from elbo_bench.runs.content_hash import with_content_hash
from elbo_bench.runs.trial import processes, run_trial


def run(arguments: argparse.Namespace) -> None:
    """Run what is not recorded yet, list what failed and why, and print the leaderboard of the sweep and its page.

    Raises:
        UsageError: The file is no sweep, or one of its trials is no configuration; nothing was started.
        RunFailedError: A trial failed.
    """
    path = find_sweep(arguments.sweep)
    sweep = expand(path, trials=arguments.trials, seed=arguments.search_seed)
    conf = [*arguments.conf, *sweep.conf]
    catalogue = Catalogue.of(conf)
    of_engine = [word for word in arguments.overrides if word.startswith(("engine.", "engine="))]
    words = [word for word in arguments.overrides if word not in of_engine]
    engine = make_engine(arguments.engine, of_engine, catalogue, arguments.workers)
    trials = make_trials(sweep, words, catalogue)
    for note in sweep.notes:
        print(f"elbo-bench: {note}", file=sys.stderr)  # noqa: T201
    if arguments.dry_run:
        plan(trials, catalogue, engine, arguments.workers, form=arguments.format)
        return
    began = carry_out(trials, engine, conf, sweep, retries=arguments.retries)
    done = [trial for trial in trials if trial.is_recorded]
    if done:
        parts = ranked([trial.folder for trial in done])
        show(parts, arguments.format)
        write_page(parts, runs_root() / f"{path.stem}.html")
    conclude(trials, began)


def plan(trials: Sequence[Trial], catalogue: Catalogue, engine: Engine, workers: int | None, *, form: str) -> None:
    """Print trials and what they will cost."""
    from elbo_bench.runs.dry_run import print_plan

    left = sum(trial.state != "recorded" for trial in trials)
    side_by_side = min(workers or max(1, len(cpu_cores()) // engine.cores), max(1, left))
    print_plan(trials, catalogue, engine.cores, side_by_side, form=form)


def carry_out(trials: Sequence[Trial], engine: Engine, conf: Sequence[str], sweep: Sweep, *, retries: int) -> float:
    """Run what is not recorded yet, showing how far it is, and return when that began."""
    began = time.monotonic()
    waiting = [trial for trial in trials if trial.state != "recorded"]
    environment = {"ELBO_BENCH_RUNS": str(runs_root().resolve())}
    if "ELBO_BENCH_DATA" in os.environ:
        environment["ELBO_BENCH_DATA"] = str(data_root().resolve())
    folders = [str(Path(folder).resolve()) for folder in conf]
    catalogue = Catalogue.of(conf)

    def task_of(trial: Trial) -> Task:
        words = list(trial.words)
        if "workers" not in parse_overrides(words, catalogue).get("evaluation", {}):
            words.append(f"evaluation.workers={engine.cores}")  # placement: it changes no number
        return Task(run_trial, words, folders, trial.log.resolve(), environment, trial.processes)

    with shown(trials, sweep.metric, maximize=sweep.maximize) as changed:
        run_trials(waiting, engine, task_of, retries=retries, changed=changed)
    return began


def make_engine(name: str, words: Sequence[str], catalogue: Catalogue, workers: int | None) -> Engine:
    """Return the engine of a name, with its keys `engine.KEY=value`.

    Raises:
        UsageError: There is no such engine or key.
    """
    given = parse_overrides(words, catalogue).get("engine", {})
    node = config.resolve_group("engine", "engine", [{"name": name}, given], catalogue)
    node = config.check({"engine": node}, catalogue)["engine"]
    given_by_us = {"workers": workers, "preload": ["elbo_bench.runs.train"], "folder": runs_root().resolve() / ".jobs"}
    engine = config.make("engine", node, catalogue, **given_by_us)
    if not isinstance(engine, Engine):
        raise UsageError(f"engine={node['name']}: it is no {Engine.__module__}.{Engine.__qualname__}")
    return engine


def make_trials(sweep: Sweep, overrides: Sequence[str], catalogue: Catalogue) -> list[Trial]:
    """Return the trials of a sweep, to each of which the command line's words are added and go first.

    Two cells that are the same run are one trial.

    Raises:
        UsageError: A cell is no configuration.
    """
    root, trials = runs_root(), {}  # type: Path, dict[str, Trial]
    given = {word.partition("=")[0] for word in overrides}
    if len(sweep.cells) > 20:
        print(f"checking {len(sweep.cells)} trials", file=sys.stderr, flush=True)  # noqa: T201
    for cell in sweep.cells:
        words = [*(word for word in cell if word.partition("=")[0] not in given), *overrides]
        cfg = with_content_hash(config.check(config.resolve(words, catalogue), catalogue), catalogue)
        _one_machine(cfg)
        name = config.run_id(cfg)
        trials.setdefault(name, Trial(words, cfg, root / name, root / ".logs" / f"{name}.txt", processes(cfg)))
    for trial in trials.values():
        if trial.is_recorded:
            trial.state = "recorded"
    return list(trials.values())


def _one_machine(cfg: Config) -> None:
    if cfg["trainer"].get("num_nodes", 1) != 1:
        raise UsageError(
            f"trainer.num_nodes={cfg['trainer']['num_nodes']}: a trial of a sweep runs on one machine; "
            "start such a run by srun or torchrun"
        )


def conclude(trials: Sequence[Trial], began: float) -> None:
    """Say what was computed, and what failed and why.

    Raises:
        RunFailedError: A trial failed.
    """
    seconds = time.monotonic() - began
    failed = [trial for trial in trials if trial.state in ("failed", "stopped")]
    recorded = sum(trial.state == "recorded" for trial in trials)
    done = sum(trial.state == "done" for trial in trials)
    for trial in failed:
        tries = f" {trial.failures} times" if trial.failures > 1 else ""
        print(f"elbo-bench: {trial.name} {trial.state}{tries}: {trial.reason}; log: {trial.log}", file=sys.stderr)  # noqa: T201
    print(  # noqa: T201
        f"{done} computed, {recorded} recorded before, {len(failed)} failed, in {seconds:.0f} s; "
        f"everything is in {runs_root().resolve()}",
        file=sys.stderr,
    )
    if failed:
        raise RunFailedError(f"{len(failed)} of {len(trials)} trials did not finish; the same command tries them again")
