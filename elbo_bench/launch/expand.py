"""A sweep file, in the format of W&B, expanded into the command lines that its agent would run."""

import itertools
import json
from pathlib import Path
from typing import Any

from elbo_bench.catalogue import Config, load_yaml
from elbo_bench.errors import UsageError, nearest

_KEYS = {
    "program",
    "command",
    "method",
    "metric",
    "parameters",
    "name",
    "description",
    "project",
    "entity",
    "early_terminate",
    "run_cap",
}


def expand(place: Path) -> list[list[str]]:
    """Return the `key=value` words of each trial of a sweep file, in the order of the grid.

    Raises:
        UsageError: The file is missing, is no sweep, or asks for what only the W&B server can do.
    """
    sweep = load_yaml(place)
    for key in sweep:
        if key not in _KEYS:
            raise UsageError(f"{place}: a sweep has no key {key}; {nearest(key, _KEYS)}")
    method = sweep.get("method", "grid")
    if method != "grid":
        raise UsageError(
            f"{place}: method {method} is not expanded here: use grid, or let the server do it: `wandb sweep {place}`"
        )
    parameters = sweep.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError(f"{place}: a sweep needs parameters")
    axes = [[(key, value) for value in _values(place, key, given)] for key, given in _flat(place, parameters).items()]
    return [[_word(key, value) for key, value in cell] for cell in itertools.product(*axes)]


def _flat(place: Path, parameters: Config, prefix: str = "") -> dict[str, Any]:
    """Return nested parameters under dotted names."""
    flat: dict[str, Any] = {}
    for key, given in parameters.items():
        if isinstance(given, dict) and "parameters" in given:
            if len(given) > 1 or not isinstance(given["parameters"], dict):
                raise UsageError(f"{place}: {prefix}{key}: nested parameters stand alone and are a mapping")
            inner = _flat(place, given["parameters"], f"{prefix}{key}.")
        else:
            inner = {f"{prefix}{key}": given}
        if twice := flat.keys() & inner.keys():
            raise UsageError(f"{place}: {min(twice)} is given twice")
        flat |= inner
    return flat


def _values(place: Path, key: str, given: object) -> list[Any]:
    if not isinstance(given, dict) or len(given) != 1 or set(given) - {"value", "values"}:
        raise UsageError(f"{place}: {key}: a grid needs `value: ...` or `values: [...]`, and nothing else")
    if "value" in given:
        return [given["value"]]
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise UsageError(f"{place}: {key}: `values` must be a list of at least one value")
    return values


def _word(key: str, value: Any) -> str:
    """Return one `key=value` as the command line reads it."""
    return f"{key}={value}" if isinstance(value, str) else f"{key}={json.dumps(value)}"
