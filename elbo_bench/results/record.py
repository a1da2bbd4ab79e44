"""The record of a run: `result.json`, and `examples.npz` with the estimates of every example.

Both files are written once and atomically. They are checked when they are read, since a user may edit or damage them.
"""

import json
import marshal
import math
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.files import atomic_write
from elbo_bench.metric import Line, Metric

SCHEMA_VERSION = 3
RESULT, EXAMPLES, WEIGHTS = "result.json", "examples.npz", "model.safetensors"
_INFINITE = (struct.pack("<d", math.inf), struct.pack("<d", -math.inf))
_LARGEST_RESULT = 16 * 2**20  # bytes; a record has a few thousand
_Seconds = Annotated[float, Field(ge=0, lt=1e12)]


class ScoredData(TypedDict):
    """The data that a run was trained with, and the examples that are scored.

    Results can be compared if all of these are equal.
    """

    name: Line
    source: Line
    protocol: Line
    values: Line
    observation: Line
    num_levels: int | None
    shape: list[int]
    splits: dict[str, int]
    files_sha256: dict[str, str]
    test_binarization: Line
    test_sha256: Line
    split: Line
    num_examples: Annotated[int, Field(ge=1, le=10**9)]
    scored_sha256: str | None


class TrainedObjective(TypedDict):
    """The objective of a run. Its parameters are further keys."""

    name: Line
    direction: Line


class Truth(TypedDict):
    """What the estimate of log p(x) is based on."""

    tier: Line
    estimator: NotRequired[Line]
    num_samples: int


class Diagnostics(TypedDict):
    """Diagnostics that `show` prints. Evaluators add further keys."""

    share_passing: NotRequired[float | None]
    pareto_k_max: NotRequired[float | None]
    minus_infinity: NotRequired[dict[str, int]]
    bound_excluded: NotRequired[str]
    notes: NotRequired[list[str]]
    exact: NotRequired[dict[str, Any]]


class Compute(TypedDict):
    """Times in seconds. A run adds further keys."""

    evaluate_seconds: _Seconds
    train_seconds: NotRequired[_Seconds]


@with_config(ConfigDict(strict=True, allow_inf_nan=False))
class Record(TypedDict):
    """The content of `result.json`. Keys that are not named here are kept and not checked."""

    schema_version: int
    run_id: Line
    status: Literal["done"]
    data: ScoredData
    model: Line
    objective: TrainedObjective
    seed: Annotated[int, Field(gt=-(2**63), lt=2**63)]
    cfg: dict[str, Any]
    metrics: dict[Line, Metric]
    truth: Truth
    diagnostics: Diagnostics
    checkpoint: dict[str, Any]
    compute: Compute
    provenance: dict[str, Any]


_RECORD = TypeAdapter(Record)


def write_result(folder: Path, result: Mapping[str, Any], examples: Mapping[str, np.ndarray]) -> None:
    """Write a record into a folder: first `examples.npz`, then `result.json`, whose presence says that the run is done.

    Raises:
        RunFailedError: A number in the record is not finite, or the folder cannot be written. There is no record then.
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
        with atomic_write(folder / RESULT) as result_path, atomic_write(folder / EXAMPLES) as examples_path:
            np.savez(examples_path, **examples)  # type: ignore[arg-type]
            result_path.write_text(text + "\n", encoding="utf-8")
            (folder / RESULT).unlink(missing_ok=True)  # so that a record never stands beside another one's examples
    except OSError as error:
        raise RunFailedError(f"the record in {folder} cannot be written: {error.strerror or error}") from None


def read_result(folder: Path) -> Record:
    """Return the `result.json` of a folder.

    Raises:
        UsageError: The file cannot be read, or is not a record; the line names the file and what is wrong.
    """
    path = folder / RESULT
    content = b""
    try:
        if path.stat().st_size > _LARGEST_RESULT:
            raise UsageError(f"{path} is not a result: it is larger than {_LARGEST_RESULT} bytes")
        content = path.read_bytes()
        result: Record = from_json(content, allow_inf_nan=False, cache_strings="keys")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a result: {_json_problem(content) or error}") from None
    if problem := _problem(result, content):
        raise UsageError(f"{path} is not a result: {problem}")
    return result


def _problem(result: object, content: bytes) -> str | None:
    """Return why parsed JSON is not a record; None if it is one."""
    if not isinstance(result, dict):
        return "it is not a mapping"
    # The parser reads 1e999 as infinite. The bytes say faster than a walk through all numbers that there is none.
    numbers = marshal.dumps(result)
    if any(infinity in numbers for infinity in _INFINITE) and (problem := _json_problem(content)):
        return problem
    version = result.get("schema_version")
    if version != SCHEMA_VERSION:
        return f"its schema_version is {version!r}, and this program reads {SCHEMA_VERSION}"
    try:
        _RECORD.validate_python(result)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"it has no {path}"
        if first["type"] == "extra_forbidden":
            return f"{path}: a metric has no such key"
        return f"{path}: {first['msg'].removeprefix('Input ').removeprefix('Value error, ')}"
    return None


def _json_problem(content: bytes) -> str | None:
    """Return why text is not JSON with finite numbers, by Python's own parser, which is slower and says more."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"it holds {text}")
        return number

    try:
        json.loads(content.decode("utf-8"), parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def read_examples(folder: Path, *, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a folder's `examples.npz`, or those of them that `only` names.

    Raises:
        UsageError: The file does not exist, or is damaged.
    """
    path = folder / EXAMPLES
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return {name: columns[name] for name in columns.files if only is None or name in only}
    except Exception as error:  # zipfile, zlib and NumPy's parser raise errors of their own
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
