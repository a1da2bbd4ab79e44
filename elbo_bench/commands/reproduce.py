"""`elbo-bench reproduce`: run the table of a paper, and compare the results with the paper."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from elbo_bench.commands.sweep import carry_out, conclude, make_engine, make_trials, plan
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.errors import UsageError, nearest, printable
from elbo_bench.files import find_sweep
from elbo_bench.launch.expand import expand
from elbo_bench.launch.trial import Trial
from elbo_bench.report.console import console
from elbo_bench.report.paper import MARKS, Cell, Paper, matches, ordering, ours, read_paper, verdict
from elbo_bench.report.read import read_rows
from elbo_bench.report.row import Row
from elbo_bench.results.record import read_result


def run(arguments: argparse.Namespace) -> None:
    """Run the missing runs of a tier of a paper, and print our numbers next to theirs.

    Raises:
        UsageError: There is no such paper or tier.
        RunFailedError: A run failed. The table is printed without it.
    """
    catalogue = Catalogue.of(arguments.conf)
    paper, sweep_file = find_paper(arguments.paper, catalogue)
    if arguments.tier not in paper.tiers:
        raise UsageError(f"--tier {arguments.tier}: {nearest(arguments.tier, paper.tiers)}")
    sweep = expand(sweep_file)
    conf = [*arguments.conf, *sweep.conf]
    catalogue = Catalogue.of(conf)
    of_engine = [word for word in arguments.overrides if word.startswith(("engine.", "engine="))]
    words = [word for word in arguments.overrides if word not in of_engine]
    given = {word.partition("=")[0] for word in words}
    words += [word for word in paper.tiers[arguments.tier].words if word.partition("=")[0] not in given]
    engine = make_engine(arguments.engine, of_engine, catalogue, arguments.workers)
    found = trials_of(paper, make_trials(sweep, words, catalogue), arguments.tier)
    trials = [*{trial.name: trial for each in found.values() for trial in each}.values()]
    trials.sort(key=lambda trial: -trial.cfg["objective"].get("num_samples", 1))  # the longest first
    if arguments.dry_run:
        plan(trials, catalogue, engine, arguments.workers, form="json" if arguments.json else "table")
        return
    theirs = {cell.name: their_value(cell, found.get(cell.name, [])) for cell in paper.cells}
    started = carry_out(trials, engine, conf, sweep, retries=arguments.retries)
    cells, claims = compare(paper, found, theirs, arguments.tier)
    if arguments.json:
        report = {"paper": paper.title, "tier": arguments.tier, "cells": cells, "orderings": claims}
        print(json.dumps(report, indent=2, allow_nan=False))  # noqa: T201
    elif arguments.format == "markdown":
        print(_markdown(paper, arguments.tier, cells, claims))  # noqa: T201
    else:
        _show(paper, arguments.tier, cells, claims)
    conclude(trials, started)


def find_paper(name: str, catalogue: Catalogue) -> tuple[Paper, Path]:
    """Return the paper `conf/paper/<name>.yaml`, and its sweep file: next to it, or one that comes with the package.

    Raises:
        UsageError: There is no such paper, or no such sweep file.
    """
    for folder in catalogue.folders if name in catalogue.names("paper") else ():
        path = folder / "paper" / f"{name}.yaml"
        if path.is_file():
            paper = read_paper(path)
            beside = path.parent / paper.sweep
            try:
                return paper, beside if beside.is_file() else find_sweep(paper.sweep)
            except OSError as error:  # a name that is too long
                raise UsageError(f"{path}: sweep: {error.strerror}") from None
    raise UsageError(f"{name}: no such paper; {nearest(name, catalogue.names('paper'))}")


def trials_of(paper: Paper, trials: Sequence[Trial], tier: str) -> dict[str, list[Trial]]:
    """Return the trials of each cell that a tier runs: one trial a seed.

    Raises:
        UsageError: A cell has no trial.
    """
    found: dict[str, list[Trial]] = {}
    for cell in paper.cells:
        if tier in cell.tiers:
            found[cell.name] = [trial for trial in trials if matches(cell.of, trial.cfg)]
            if not found[cell.name]:
                raise UsageError(f"{paper.sweep} has no run for the table cell {cell.name}; run it first")
    return found


def their_value(cell: Cell, trials: Sequence[Trial]) -> float | None:
    """Return the number of a paper. An exact one is computed: the maximum likelihood of probabilistic PCA.

    Raises:
        UsageError: The exact value cannot be computed, or the runs are not scored on all of the training data.
    """
    if cell.exact is None or not trials:
        return cell.value
    from elbo_bench import config  # imports torch, which only exact cells need
    from elbo_bench.data.reading.files import data_root
    from elbo_bench.evaluation.exact.probabilistic_pca import maximum_likelihood

    cfg = trials[0].cfg
    model, evaluation = cfg["model"], cfg["evaluation"]
    if model["name"] != "linear_gaussian" or evaluation["split"] != "train" or evaluation["num_examples"] is not None:
        raise UsageError(
            f"{cell.name}: an exact cell needs model=linear_gaussian, evaluation.split=train and all of its examples"
        )
    dataset = config.make("data", cfg["data"]).load(data_root())
    x, _ = dataset.observations("train", len(dataset.train), seed=cfg["seed"])
    try:
        fit = maximum_likelihood(x, model["latent_dim"], None if model["learn_noise"] else model["noise_std"])
    except ValueError as error:
        raise UsageError(f"{cell.name}: {error}") from None
    return fit.log_px if cell.exact == "log_px" else float(fit.active_units)


def compare(
    paper: Paper, found: dict[str, list[Trial]], theirs: dict[str, float | None], tier: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a mapping for each cell and for each ordering: theirs, ours, and the verdict.

    A cell without one of its seeds counts as not run. A damaged record is named on stderr and counts as missing.
    """
    rows: dict[str, list[Row]] = {}
    said_before: set[str] = set()
    cells = []
    for cell in paper.cells:
        trials = [trial for trial in found.get(cell.name, []) if trial.is_recorded]
        read, problems = read_rows([trial.folder for trial in trials]) if trials else ([], [])
        for problem in problems:
            if problem not in said_before:
                print(f"elbo-bench: excluded: {printable(problem)}", file=sys.stderr)  # noqa: T201
        said_before |= {*problems}
        complete = bool(read) and len(read) == len(found[cell.name])
        rows[cell.name] = read if complete else []
        our = ours(cell, [read_result(trial.folder) for trial in trials]) if complete else None
        value = theirs[cell.name]
        cells.append(
            {
                "cell": cell.name,
                "metric": cell.metric,
                "theirs": value,
                "mark": cell.mark,
                "ours": our and our.value,
                "error": our and our.error,
                "seeds": our and our.seeds,
                "lower_bound_only": our and our.lower_bound,
                "tolerance": cell.tolerance,
                "verdict": "not run" if value is None else verdict(cell, value, our),
                "runs": [trial.name for trial in trials],
            }
        )
    claims = []
    for claim in paper.orderings:
        if tier in claim.tiers:
            cell = paper.cell(claim.larger)
            said, difference, p = ordering(cell, rows[claim.larger], rows[claim.smaller])
            claims.append(
                {
                    "larger": claim.larger,
                    "smaller": claim.smaller,
                    "metric": cell.metric,
                    "difference": difference,
                    "p": p,
                    "verdict": said,
                }
            )
    return cells, claims


def _texts(cell: dict[str, Any]) -> list[str]:
    theirs = "" if cell["theirs"] is None else f"{cell['theirs']:.2f}"
    if cell["mark"] == "exact" and theirs:
        theirs = f"{cell['theirs']:.4f}"
    digits = 4 if cell["mark"] == "exact" else 2
    value = "" if cell["ours"] is None else f"{'>= ' if cell['lower_bound_only'] else ''}{cell['ours']:.{digits}f}"
    # An exact value is that of these examples, so their finite number is no error.
    error = "" if cell["error"] is None or cell["mark"] == "exact" else f"{cell['error']:.2f}"
    gone = cell["ours"] is None or cell["theirs"] is None
    difference = "" if gone else f"{cell['ours'] - cell['theirs']:+.{digits}f}"
    return [cell["cell"], cell["metric"], theirs, cell["mark"], value, error, difference, cell["verdict"]]


_HEADS = ("cell", "metric", "theirs", "mark", "ours", "± SE", "ours - theirs", "verdict")


def _claim_texts(claim: dict[str, Any]) -> list[str]:
    difference = "" if claim["difference"] is None else f"{claim['difference']:+.2f}"
    p = "" if claim["p"] is None else "< 1e-6" if claim["p"] < 1e-6 else f"{claim['p']:.2g}"
    return [f"{claim['larger']} > {claim['smaller']}", difference, p, claim["verdict"]]


_CLAIM_HEADS = ("their claim", "our difference", "p", "verdict")


def _notes(paper: Paper, tier: str, cells: Sequence[dict[str, Any]]) -> list[str]:
    alone = any(cell["seeds"] == 1 for cell in cells)
    marks = [mark for mark in MARKS if any(cell["mark"] == mark for cell in cells)]
    return [
        f"tier {tier}: {paper.tiers[tier].budget}",
        "marks: " + "; ".join(f"{mark}, {MARKS[mark]}" for mark in marks),
        "p: of our difference by a paired test on the same examples, and over seeds where there are several; holds or "
        "reversed at 5 %",
        *(["one seed: these trained models are compared, and another seed may differ"] if alone else []),
        *(f"deviates: {line}" for line in paper.deviates),
    ]


def _tables(
    cells: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]
) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Return the headings and rows of both tables, as far as they have rows."""
    both: list[tuple[tuple[str, ...], list[list[str]]]] = [
        (_HEADS, [*map(_texts, cells)]),
        (_CLAIM_HEADS, [*map(_claim_texts, claims)]),
    ]
    return [(heads, lines) for heads, lines in both if lines]


def _show(paper: Paper, tier: str, cells: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> None:
    out = console(130)
    out.print(Text(f"{paper.title}; {paper.table}; {paper.address}"))
    for heads, lines in _tables(cells, claims):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head in heads:
            numeric = head in ("theirs", "ours", "± SE", "ours - theirs", "our difference", "p")
            table.add_column(head, justify="right" if numeric else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        out.print(table)
    for note in _notes(paper, tier, cells):
        out.print(Text(f"  {note}"))


def _markdown(paper: Paper, tier: str, cells: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> str:
    lines = [f"{paper.title}; {paper.table}; {paper.address}", ""]
    for heads, body in _tables(cells, claims):
        lines += [f"| {' | '.join(heads)} |", f"|{'|'.join(' --- ' for _ in heads)}|"]
        lines += [
            f"| {' | '.join(text.replace('|', '&#124;').replace('>', '&gt;') for text in line)} |" for line in body
        ]
        lines.append("")
    return "\n".join([*lines, *(f"- {note}" for note in _notes(paper, tier, cells))])
