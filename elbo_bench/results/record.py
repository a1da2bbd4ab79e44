"""`result.json` and `examples.npz`: written once, atomically, and read back with suspicion."""

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from elbo_bench.errors import RunFailedError, UsageError

SCHEMA_VERSION = 1
RESULT, EXAMPLES = "result.json", "examples.npz"
_LARGEST_RESULT = 16 * 2**20  # bytes; a record is a few thousand

_KEYS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "run_id": str,
    "status": str,
    "data": dict,
    "model": str,
    "objective": dict,
    "seed": int,
    "cfg": dict,
    "metrics": dict,
    "truth": dict,
    "diagnostics": dict,
    "checkpoint": dict,
    "compute": dict,
    "provenance": dict,
}
_METRIC_KEYS = {"value", "se", "se_mc", "n", "unit"}


def write_result(folder: Path, result: Mapping[str, Any], examples: Mapping[str, np.ndarray]) -> None:
    """Write a result into a folder: the examples first, then `result.json`, whose presence says the run is done.

    Raises:
        RunFailedError: Something that it reports is not finite; nothing is written.
    """
    for name, metric in result["metrics"].items():
        if not math.isfinite(metric["value"]):
            raise RunFailedError(f"metric {name} is {metric['value']}: no record is written")
    try:
        text = json.dumps(result, indent=2, allow_nan=False)
    except ValueError:
        raise RunFailedError("the result holds a number that is not finite: no record is written") from None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
        place = Path(scratch) / EXAMPLES
        np.savez(place, **examples)  # type: ignore[arg-type]
        replace(place, folder / EXAMPLES)
        place = Path(scratch) / RESULT
        place.write_text(text + "\n", encoding="utf-8")
        replace(place, folder / RESULT)


def replace(source: Path, target: Path) -> None:
    """Move a finished file over `target` so that a reader, or a crash, finds the old file or the new one."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_result(folder: Path) -> dict[str, Any]:
    """Return the `result.json` of a folder.

    Raises:
        UsageError: There is none, or it is not a result; the line names the file and what is wrong.
    """
    place = folder / RESULT
    try:
        if place.stat().st_size > _LARGEST_RESULT:
            raise UsageError(f"{place} is not a result: it is larger than {_LARGEST_RESULT} bytes")
        result = json.loads(place.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not a result: {error}") from None
    problem = _problem(result)
    if problem is not None:
        raise UsageError(f"{place} is not a result: {problem}")
    return result  # type: ignore[no-any-return]


def read_examples(folder: Path) -> dict[str, np.ndarray]:
    """Return the columns of a folder's `examples.npz`.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    place = folder / EXAMPLES
    try:
        with np.load(place, allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{place} cannot be read: {error}") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _problem(result: object) -> str | None:
    """Return what keeps something from being a result, or None."""
    if not isinstance(result, dict):
        return "it is not a mapping"
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        return f"its schema_version is {version!r}, and this program reads {SCHEMA_VERSION}"
    for key, kind in _KEYS.items():
        if key not in result:
            return f"it has no {key}"
        if not isinstance(result[key], kind) or isinstance(result[key], bool):
            return f"its {key} is of the wrong type"
    for name, metric in result["metrics"].items():
        if not isinstance(metric, dict) or set(metric) != _METRIC_KEYS:
            return f"its metric {name} is not {{{', '.join(sorted(_METRIC_KEYS))}}}"
        if isinstance(metric["value"], bool) or not isinstance(metric["value"], int | float):
            return f"its metric {name} has no number"
        if not math.isfinite(metric["value"]):
            return f"its metric {name} is not finite"
    return None
