"""`result.json` and `examples.npz`: written once, atomically, and read back with suspicion."""

import json
import marshal
import math
import os
import struct
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np
from pydantic_core import from_json

from elbo_bench.errors import RunFailedError, UsageError

SCHEMA_VERSION = 2
RESULT, EXAMPLES, WEIGHTS = "result.json", "examples.npz", "model.safetensors"
_INFINITE = (struct.pack("<d", math.inf), struct.pack("<d", -math.inf))
_INFINITE_NUMBER = "it holds a number that is infinite"  # 1e999, as the parser reads it
_UNITS = frozenset(("nats", "bits/dim", "samples", "dimensions"))
_LARGEST_RESULT = 16 * 2**20  # bytes; a record is a few thousand

_KEYS: dict[str, type | UnionType] = {
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
    "data.split": str,
    "data.num_examples": int,
    "objective.name": str,
    "truth.tier": str,
    "truth.num_samples": int,
}
_WHERE_PRESENT: dict[str, type | UnionType] = {
    "truth.estimator": str,
    "diagnostics.share_passing": int | float | None,
    "diagnostics.pareto_k_max": int | float | None,
    "diagnostics.minus_infinity": dict,
}
_METRIC_KEYS: dict[str, type | UnionType] = {
    "value": int | float,
    "se": int | float | None,
    "se_mc": int | float | None,
    "n": int,
    "unit": str,
}


def write_result(folder: Path, result: Mapping[str, Any], examples: Mapping[str, np.ndarray]) -> None:
    """Write a result into a folder: the examples first, then `result.json`, whose presence says the run is done.

    Raises:
        RunFailedError: Something that it reports is not finite, or it cannot be written; there is no record.
    """
    for name, metric in result["metrics"].items():
        if not math.isfinite(metric["value"]):
            raise RunFailedError(f"metric {name} is {metric['value']}: no record is written")
    try:
        text = json.dumps(result, indent=2, allow_nan=False)
    except ValueError:
        raise RunFailedError("the result holds a number that is not finite: no record is written") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            np.savez(Path(scratch) / EXAMPLES, **examples)  # type: ignore[arg-type]
            (Path(scratch) / RESULT).write_text(text + "\n", encoding="utf-8")
            (folder / RESULT).unlink(missing_ok=True)  # a record never stands beside another one's examples
            replace(Path(scratch) / EXAMPLES, folder / EXAMPLES)
            replace(Path(scratch) / RESULT, folder / RESULT)
    except OSError as error:
        raise RunFailedError(f"the record in {folder} cannot be written: {error.strerror or error}") from None


def replace_bytes(target: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
        place = Path(scratch) / target.name
        place.write_bytes(content)
        replace(place, target)


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
    content = b""
    try:
        if place.stat().st_size > _LARGEST_RESULT:
            raise UsageError(f"{place} is not a result: it is larger than {_LARGEST_RESULT} bytes")
        content = place.read_bytes()
        result = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{place} is not a result: {_no_json(content) or error}") from None
    problem = _problem(result)
    if problem == _INFINITE_NUMBER:
        problem = _no_json(content)
    if problem is not None:
        raise UsageError(f"{place} is not a result: {problem}")
    return result  # type: ignore[no-any-return]


def read_examples(folder: Path, *, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a folder's `examples.npz`, or those of them that are named.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    place = folder / EXAMPLES
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files if only is None or name in only}
    except Exception as error:  # zipfile, zlib and NumPy's parser each have their own
        raise UsageError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _no_json(content: bytes) -> str | None:
    """Return why text is no JSON, in the words of Python's own parser, which is slower and says more."""
    try:
        json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text}")
    return number


def _problem(result: object) -> str | None:
    """Return what keeps something from being a result, or None."""
    if not isinstance(result, dict):
        return "it is not a mapping"
    # Of 10,000 records one would walk through every number; their bytes say at once that none can be infinite.
    content = marshal.dumps(result)
    if any(infinity in content for infinity in _INFINITE) and not _is_finite(result):
        return _INFINITE_NUMBER
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        return f"its schema_version is {version!r}, and this program reads {SCHEMA_VERSION}"
    for path, kind in {**_KEYS, **_WHERE_PRESENT}.items():
        group, _, key = path.rpartition(".")
        node = result[group] if group else result
        if key not in node and path in _WHERE_PRESENT:
            continue
        if key not in node:
            return f"it has no {path}"
        if not _is(node[key], kind):
            return f"its {path} is of the wrong type"
    for name, metric in result["metrics"].items():
        if _is_usual(metric):
            continue
        if not isinstance(metric, dict) or metric.keys() != _METRIC_KEYS.keys():
            return f"its metric {name} is not {{{', '.join(sorted(_METRIC_KEYS))}}}"
        for key, kind in _METRIC_KEYS.items():
            if not _is(metric[key], kind):
                return f"the {key} of its metric {name} is of the wrong type"
    return None


def _is_usual(metric: Any) -> bool:
    """Return whether a metric is one that a run writes: nearly all are, and thousands of records have twenty each."""
    try:
        value, number = metric["value"], metric["n"]
        for each in (value, metric["se"], metric["se_mc"]):
            if each is not None and (type(each) is not float or not -1e300 < each < 1e300):
                return False
        usual = type(number) is int and 0 <= number < 2**63 and metric["unit"] in _UNITS
        return usual and value is not None and len(metric) == len(_METRIC_KEYS)
    except (KeyError, TypeError):
        return False


def _is_finite(node: object) -> bool:
    """Return whether no number within is infinite; the parser has refused NaN, and what is nested without end."""
    if isinstance(node, float):
        return abs(node) <= sys.float_info.max
    if isinstance(node, dict):
        return all(map(_is_finite, node.values()))
    return all(map(_is_finite, node)) if isinstance(node, list) else True


def _is(value: object, kind: type | UnionType) -> bool:
    """Return whether a value is of a kind, and can be shown: no number is huge, no string moves the cursor."""
    if isinstance(value, str):
        return kind is str and value.isprintable()
    if isinstance(value, bool):
        return False
    if isinstance(value, int | float):
        return isinstance(value, kind) and abs(value) < (2**63 if kind is int else 1e300)
    return isinstance(value, kind)
