"""Estimate the cost of a sweep: the steps, decoded latents and seconds of each trial, by a short measurement."""

import dataclasses
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from rich.table import Table
from rich.text import Text

from elbo_bench import config
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import UsageError
from elbo_bench.evaluation import Evaluator, Importance
from elbo_bench.evaluation.blocks import single_threaded
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.launch.trial import Trial
from elbo_bench.progress import ProgressLine
from elbo_bench.report.console import console, duration
from elbo_bench.runs.fit import fit
from elbo_bench.runs.run import Run
from elbo_bench.training.budget import Budget
from elbo_bench.training.options import TrainerOptions

_SHORT, _SECONDS = 10, 0.5
"""Steps of a first training, and seconds of a second. Their difference is the time of steps without the start-up."""

_SAMPLES = 1000
"""K of the one block whose evaluation is measured. The time grows in proportion to K."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The most that a trial costs. Patience may end its training earlier.

    Attributes:
        steps: Optimiser steps. None if only the clock ends the training.
        train_decoder_evaluations: Latents that the training decodes. None if only the clock ends it.
        evaluate_decoder_evaluations: Approximate number of latents that the evaluation decodes.
        seconds: Approximate seconds of training and evaluation, with `cores` cores of this machine for a trial.
    """

    steps: int | None
    train_decoder_evaluations: int | None
    evaluate_decoder_evaluations: int
    seconds: float


def print_plan(trials: Sequence[Trial], catalogue: Catalogue, cores: int, side_by_side: int, *, form: str) -> None:
    """Print the trials of a sweep and their estimated cost. Nothing is started or written.

    Args:
        trials: All trials of the sweep.
        catalogue: The names that a configuration may use.
        cores: Cores of this machine for one trial.
        side_by_side: Trials that run at the same time.
        form: `json`, or a table.

    Raises:
        UsageError: A trial cannot be run.
    """
    costs = estimate(trials, catalogue, cores)
    rows = [{"trial": trial.name, "state": trial.state, **dataclasses.asdict(costs[trial.name])} for trial in trials]
    if form == "json":
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    table = Table(title=Text(f"{len(trials)} trials; nothing was started"), title_justify="left")
    table.add_column("trial", overflow="fold")
    table.add_column("state")
    for column in ("steps", "decoded in training", "in evaluation", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        counts = (row["steps"], row["train_decoder_evaluations"], row["evaluate_decoder_evaluations"])
        counted = ["?" if count is None else f"{count:.3g}" if count >= 1e6 else f"{count}" for count in counts]
        table.add_row(Text(row["trial"]), row["state"], *counted, f"{row['seconds']:.1f}")
    left = [costs[trial.name].seconds for trial in trials if trial.state != "recorded"]
    total = math.fsum(left)
    out = console(130)
    out.print(table)
    out.print(
        Text(
            f"{len(left)} to run: about {duration(total)} of work, {duration(total / side_by_side)} with "
            f"{side_by_side} side by side ({cores} to a trial). Measured here and now, with untrained models."
        )
    )


def estimate(trials: Sequence[Trial], catalogue: Catalogue, cores: int) -> dict[str, Cost]:
    """Return the cost of each trial. Trials that differ only in their seed are measured once.

    Raises:
        UsageError: A trial cannot be run.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(config.digest(config.identity({**trial.cfg, "seed": None})), []).append(trial)
    costs: dict[str, Cost] = {}
    with ProgressLine("measuring what trials cost", len(groups)) as line, single_threaded():
        for done, alike in enumerate(groups.values(), 1):
            try:
                cost = _measured(alike[0].cfg, catalogue, cores)
            except UsageError as error:
                raise UsageError(f"{alike[0].name}: {error}") from None
            costs |= {trial.name: cost for trial in alike}
            line.update(done)
    return costs


def _measured(cfg: Mapping[str, Any], catalogue: Catalogue, cores: int) -> Cost:
    run = Run.build(dict(cfg), catalogue)
    options = run.make("trainer", TrainerOptions)
    counted = run.decoder_evaluations(options)
    limits = options.limits(counted)
    evaluated = run.num_scored * run.evaluator.samples
    per_sample = _evaluation_seconds(run) / cores
    if limits.batches is None:
        assert limits.seconds is not None
        return Cost(None, None, evaluated, limits.seconds + evaluated * per_sample)
    steps = math.ceil(limits.epochs * counted.steps_per_epoch)
    training = steps * _step_seconds(run, options)
    every, _ = options.validation_interval(limits)
    if every is not None:
        validated = min(options.validation_examples or math.inf, len(run.dataset.validation))
        validations = limits.batches // counted.batches_per_epoch // every
        training += validations * validated * options.validation_samples * per_sample
    seconds = min(training, limits.seconds or math.inf) + evaluated * per_sample
    return Cost(steps, counted.after(limits.batches), evaluated, seconds)


def _step_seconds(run: Run, options: TrainerOptions) -> float:
    """Return the seconds of an optimiser step, with Lightning's own work."""
    seconds: list[float] = []
    lengths = [_SHORT]
    for steps in lengths:
        short = dataclasses.replace(
            options,
            max_epochs=None,
            max_steps=steps,
            budget=Budget(),
            validate_every=None,
            checkpoint="last",
            patience=None,
            accelerator="auto",
            devices=1,
            strategy="auto",
        )
        with tempfile.TemporaryDirectory() as scratch:
            seconds.append(fit(run, short, Path(scratch)).facts["train_seconds"])
        if len(lengths) == 1:
            lengths.append(_SHORT + max(1, min(200, round(_SECONDS * _SHORT / seconds[0]))))
    return max(0.0, seconds[1] - seconds[0]) / (lengths[1] - lengths[0])


@torch.no_grad()
def _evaluation_seconds(run: Run) -> float:
    """Return the seconds of one sample for one example in the evaluation."""
    evaluator: Evaluator = run.evaluator
    if isinstance(evaluator, Importance):
        samples = min(evaluator.num_samples, _SAMPLES)
        evaluator = dataclasses.replace(evaluator, num_samples=samples, target_se=None, max_samples=None, workers=1)
    x = run.scored_examples()[0][: evaluator.block_size]
    started = time.monotonic()
    evaluator.evaluate(cast("LatentVariableModel", run.model), x, Request())
    return (time.monotonic() - started) / (evaluator.samples * evaluator.block_size)
