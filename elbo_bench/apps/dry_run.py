"""What a sweep would cost: its trials, what each decodes, and seconds on this machine, by a short measurement."""

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
from elbo_bench.apps.components import Components, make
from elbo_bench.apps.terminal import console, duration
from elbo_bench.apps.train import count_decoded, make_module
from elbo_bench.catalogue import Catalogue
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import UsageError
from elbo_bench.evaluation import Evaluator, Importance
from elbo_bench.evaluation.blocks import single_threaded
from elbo_bench.evaluation.evaluator import Request
from elbo_bench.launch.trial import Trial
from elbo_bench.progress import ProgressLine
from elbo_bench.training.decoder_evaluations import DecoderEvaluations
from elbo_bench.training.fit import fit
from elbo_bench.training.options import TrainerOptions

_SHORT, _SECONDS = 10, 0.5
"""Steps of a first training, and seconds of a second: the difference of the two is the time of steps alone."""

_SAMPLES = 1000
"""K of the evaluation of one block that is measured; the time grows in proportion to K."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a trial takes at most: patience may end it before.

    Attributes:
        steps: Optimiser steps; None where the clock alone ends a training.
        train_decoder_evaluations: Latents that training decodes, likewise.
        evaluate_decoder_evaluations: Latents that the evaluation decodes, about.
        seconds: Of training and evaluation, each process on `cores` of this machine, about.
    """

    steps: int | None
    train_decoder_evaluations: int | None
    evaluate_decoder_evaluations: int
    seconds: float


def print_plan(trials: Sequence[Trial], catalogue: Catalogue, cores: int, side_by_side: int, form: str) -> None:
    """Print the trials of a sweep and their estimated cost; nothing is started, and nothing written.

    Args:
        trials: All of the sweep.
        catalogue: Where names are looked up.
        cores: Of this machine, that a trial has.
        side_by_side: Trials.
        form: `json` for programs; a table otherwise.

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
        told = ["?" if count is None else f"{count:.3g}" if count >= 1e6 else f"{count}" for count in counts]
        table.add_row(Text(row["trial"]), row["state"], *told, f"{row['seconds']:.1f}")
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
    """Return the cost of each trial; those that differ in their seed alone are measured once.

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
    components = Components.build(dict(cfg), catalogue)
    options = make("trainer", TrainerOptions, dict(cfg), catalogue)
    module = make_module(components, catalogue)
    counted = count_decoded(components, module, options)
    limits = options.limits(counted)
    rows, samples = len(components.split()[0]), components.evaluator.samples
    a_sample = _evaluating(components)
    evaluating = rows * samples * a_sample / cores
    if limits.batches is None:
        assert limits.seconds is not None
        return Cost(None, None, rows * samples, limits.seconds + evaluating)
    spe = -(-counted.batches_per_epoch // options.accumulate_grad_batches)
    steps = math.ceil(limits.epochs(counted) * spe)
    training = steps * _stepping(components, catalogue, options, counted)
    every = options.validated_every(limits.epochs(counted))
    if every is not None:
        validated = min(options.validation_examples or math.inf, len(components.dataset.validation))
        measurements = limits.batches // counted.batches_per_epoch // every
        training += measurements * validated * options.validation_samples * a_sample / cores
    seconds = min(training, limits.seconds or math.inf) + evaluating
    return Cost(steps, counted.after(limits.batches), rows * samples, seconds)


def _stepping(
    components: Components, catalogue: Catalogue, options: TrainerOptions, counted: DecoderEvaluations
) -> float:
    """Return the seconds of an optimiser step, Lightning's share counted in."""
    seconds: list[float] = []
    lengths = [_SHORT]
    for steps in lengths:
        short = dataclasses.replace(
            options,
            max_epochs=None,
            max_steps=steps,
            budget=type(options.budget)(),
            validate_every=None,
            checkpoint="last",
            patience=None,
            accelerator="auto",
            devices=1,
            strategy="auto",
        )
        with tempfile.TemporaryDirectory() as scratch:
            trained = fit(
                make_module(components, catalogue),
                components.dataset,
                short,
                Path(scratch),
                run_id="",
                counted=counted,
                batch_size=components.source.batch_size,
                shuffle=components.source.shuffle,
                seed=0,
                bounds={},
                tell=lambda _: None,
                whole=components.objective.scope == "batch",
                show=False,
            )
        seconds.append(trained.facts["train_seconds"])
        if len(lengths) == 1:
            lengths.append(_SHORT + max(1, min(200, round(_SECONDS * _SHORT / seconds[0]))))
    return max(0.0, seconds[1] - seconds[0]) / (lengths[1] - lengths[0])


@torch.no_grad()
def _evaluating(components: Components) -> float:
    """Return the seconds that one sample of one example takes, of what the evaluation draws."""
    evaluator: Evaluator = components.evaluator
    if isinstance(evaluator, Importance):
        samples = min(evaluator.num_samples, _SAMPLES)
        evaluator = dataclasses.replace(evaluator, num_samples=samples, target_se=None, max_samples=None, workers=1)
    x = components.split()[0][: evaluator.block_size]
    started = time.monotonic()
    evaluator.evaluate(cast("LatentVariableModel", components.model), x, Request())
    return (time.monotonic() - started) / (evaluator.samples * evaluator.block_size)
