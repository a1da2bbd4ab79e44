"""A sweep file, in the format of W&B, expanded into the trials that its agents would run."""

import dataclasses
import hashlib
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from elbo_bench.config.catalogue import Config, load_yaml
from elbo_bench.config.overrides import write_override
from elbo_bench.errors import UsageError, nearest, shown
from elbo_bench.launch.axes import Axis, read_axis
from elbo_bench.launch.sweep_command import read_command

LARGEST = 100_000
"""Trials of one sweep: what is beyond is a slip of the pen."""

_TEXT = ("program", "name", "description", "project", "entity", "apiVersion", "kind")
_ELSEWHERE = ("job", "image_uri", "scheduler", "metrics")
_KEYS = {*_TEXT, *_ELSEWHERE, "command", "method", "metric", "parameters", "early_terminate", "run_cap", "controller"}
_GOALS = ("maximize", "minimize")
_MORE_IS_BETTER = r"log_px(_lower)?|L_\d+|elbo(_\w+)?|bound|ess|mutual_information"
_LESS_IS_BETTER = r"\w+_gap|bits_per_dim|kl_from_truth|distortion|width|seconds"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file, read.

    Attributes:
        cells: The `key=value` words of each trial, in order.
        conf: `--conf` folders that the file's command names.
        metric: The metric whose best value is shown, as a record names it.
        maximize: Whether its largest value is the best; None if that is not known, and no best value is shown.
        notes: Lines for the user: what the file requests and this program does not do, and warnings about its metric.
    """

    cells: list[list[str]]
    conf: list[str]
    metric: str
    maximize: bool | None
    notes: list[str]


def expand(path: Path, *, trials: int | None = None, seed: int = 0) -> Sweep:
    """Return the trials of a sweep file: a grid in its order, or random draws.

    Args:
        path: The sweep file.
        trials: At most so many; of `method: random` exactly so many. The file's `run_cap` if not given.
        seed: Of what `method: random` draws: each parameter of each trial is a function of (seed, name, number).

    Raises:
        UsageError: The file is missing, is no sweep, or needs the W&B server.
    """
    sweep = load_yaml(path)
    _check(path, sweep)
    metric, maximize, notes = _metric(path, sweep.get("metric"))
    words, conf = read_command(str(path), sweep["command"]) if "command" in sweep else ([], [])
    parameters = sweep.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError(f"{path}: a sweep needs parameters")
    axes = {key: read_axis(f"{path}: {key}", given) for key, given in _flat(path, parameters).items()}
    number = trials if trials is not None else sweep.get("run_cap")
    cells = _drawn(path, axes, number, seed) if sweep["method"] == "random" else _grid(path, axes, number)
    if "early_terminate" in sweep:
        notes.append("early_terminate is W&B's: here every trial runs to its end")
    if twice := {word.partition("=")[0] for word in words} & axes.keys():
        raise UsageError(f"{path}: {min(twice)} is given twice, by a parameter and by the command")
    return Sweep([[*words, *cell] for cell in cells], conf, metric, maximize, notes)


def _check(path: Path, sweep: Config) -> None:
    for key in sweep:
        if key not in _KEYS:
            raise UsageError(f"{path}: a sweep has no key {key}; {nearest(key, _KEYS)}")
        if key in _ELSEWHERE:
            raise UsageError(f"{path}: {key} works only in W&B's own sweeps and is not supported here; remove it")
        if key in _TEXT and not isinstance(sweep[key], str):
            raise UsageError(f"{path}: {key}: {shown(sweep[key])} must be text")
    method = sweep.setdefault("method", "grid")
    if method in ("bayes", "custom"):
        raise UsageError(
            f"{path}: method {method} needs W&B's server, which chooses each trial by those before: "
            f"`wandb sweep {path}`, then `wandb agent` as it says; without it: method grid or random"
        )
    if method not in ("grid", "random"):
        raise UsageError(
            f"{path}: method {shown(method)}: no such method; {nearest(method, ['grid', 'random', 'bayes'])}"
        )
    cap = sweep.get("run_cap", 1)
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
        raise UsageError(f"{path}: run_cap: {shown(cap)} must be a whole number of trials, 1 or more")


def _metric(path: Path, given: object) -> tuple[str, bool | None, list[str]]:
    """Return the metric of a sweep as a record names it, whether its largest value is the best, and notes."""
    if given is None:
        return "log_px", True, []
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise UsageError(f"{path}: metric needs a name, such as {{name: test/log_px, goal: maximize}}")
    name = given["name"].removeprefix("test/")
    known = more_is_better(name)
    if "goal" not in given:  # W&B would minimize: the best log p(x) would be the worst one
        unknown = f"metric: {name!r}: add `goal: maximize` or `goal: minimize`; without a goal no best value is shown"
        return name, known, [unknown] if known is None else []
    goal = given["goal"]
    if goal not in _GOALS:
        raise UsageError(f"{path}: metric: goal {shown(goal)}: no such goal; {nearest(goal, _GOALS)}")
    maximize = goal == "maximize"
    odd = f"metric: {name!r}: a {'larger' if known else 'smaller'} value is better, but the goal is {goal}"
    return name, maximize, [odd] if known not in (None, maximize) else []


def more_is_better(metric: str) -> bool | None:
    """Return whether a larger value of a metric is better; None if that is not known.

    Args:
        metric: Its name in a record, such as `elbo_gap`, or in W&B, such as `test/elbo_gap`.
    """
    name = metric.removeprefix("test/")
    if re.fullmatch(_LESS_IS_BETTER, name):
        return False
    return True if re.fullmatch(_MORE_IS_BETTER, name) else None


def _flat(path: Path, parameters: Config, prefix: str = "") -> dict[str, Any]:
    """Return nested parameters under dotted names."""
    flat: dict[str, Any] = {}
    for key, given in parameters.items():
        if not all(part.isidentifier() for part in key.split(".")):
            raise UsageError(f"{path}: {prefix}{key} is no name of a key, such as objective.num_samples")
        if isinstance(given, dict) and "parameters" in given:
            if len(given) > 1 or not isinstance(given["parameters"], dict):
                raise UsageError(f"{path}: {prefix}{key}: nested parameters stand alone and are a mapping")
            inner = _flat(path, given["parameters"], f"{prefix}{key}.")
        else:
            inner = {f"{prefix}{key}": given}
        if twice := flat.keys() & inner.keys():
            raise UsageError(f"{path}: {min(twice)} is given twice")
        flat |= inner
    return flat


def _grid(path: Path, axes: dict[str, Axis], number: int | None) -> list[list[str]]:
    """Return every combination, or the first `number` of them."""
    for key, axis in axes.items():
        if axis.values is None:
            raise UsageError(
                f"{path}: {key}: a grid needs `values: [...]`, not a range of real numbers; or method random"
            )
        if axis.weighted:
            raise UsageError(
                f"{path}: {key}: a grid takes each value once and has no `probabilities`; or method random"
            )
    size = math.prod(len(axis.values or ()) for axis in axes.values())
    if min(size, number or size) > LARGEST:
        raise UsageError(f"{path}: a grid of {size} trials; at most {LARGEST}, or run_cap, or method random")
    words = [[write_override(key, value) for value in (axis.values or ())[:number]] for key, axis in axes.items()]
    return [list(cell) for cell in itertools.islice(itertools.product(*words), number)]


def _drawn(path: Path, axes: dict[str, Axis], number: int | None, seed: int) -> list[list[str]]:
    """Return `number` random draws. More draws, or one more parameter, do not change the earlier draws."""
    if number is None:
        raise UsageError(f"{path}: method random has no end: say `run_cap: 20` in the file, or --trials 20")
    if number > LARGEST:
        raise UsageError(f"{path}: {number} trials; at most {LARGEST}")
    drawn = {key: _uniform(seed, key, number) for key in axes}
    return [
        [write_override(key, axis.quantile(drawn[key][index])) for key, axis in axes.items()] for index in range(number)
    ]


def _uniform(seed: int, key: str, number: int) -> list[float]:
    name = hashlib.blake2b(f"{seed}/sweep/{key}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(name, dtype="<u8")))
    return [float(each) for each in generator.random(number)]
