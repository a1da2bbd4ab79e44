"""The leaderboard: records ranked by test log p(x), never across data contracts and never by tightness alone."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from elbo_bench import config
from elbo_bench.errors import UsageError
from elbo_bench.results.record import RESULT, read_result


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        key: Its name in JSON and CSV.
        title: Its heading in a table.
        meaning: What it is, in one line.
        digits: Digits behind the point; None for text.
    """

    key: str
    title: str
    meaning: str
    digits: int | None = None


COLUMNS: tuple[Column, ...] = (
    Column("rank", "#", "Place by log p(x) within one data contract", 0),
    Column("objective", "objective", "What the run was trained with"),
    Column("model", "model", "The model"),
    Column("seed", "seed", "The run's seed", 0),
    Column(
        "log_px",
        "log p(x)",
        "Mean test log p(x) in nats, exact or by importance sampling; '>=' marks a lower bound only",
        2,
    ),
    Column("log_px_se", "± SE", "Standard error of that mean over the test examples", 2),
    Column("bits_per_dim", "bits/dim", "-log2 p(x) / D; of the levels behind dequantised data at most that", 3),
    Column("elbo", "ELBO", "Evidence lower bound, whatever was trained with", 2),
    Column("elbo_gap", "ELBO gap", "log p(x) - ELBO = KL(q(z|x) ‖ p(z|x))", 2),
    Column("bound", "bound", "Value of the bound trained with; '*' marks what is no bound on log p(x)", 2),
    Column("bound_gap", "its gap", "log p(x) - the bound trained with", 2),
    Column("rate", "rate", "KL(q(z|x) ‖ p(z)), the KL inside the ELBO", 2),
    Column("distortion", "distortion", "-E_q[log p(x|z)]", 2),
    Column("active_units", "active", "Latent dimensions whose posterior mean varies over x", 0),
    Column("ess", "ESS", "Effective sample size of the importance weights", 1),
    Column("seconds", "s", "Seconds of training and evaluation", 1),
)

Row = dict[str, Any]
_NAMED = ("name", "source", "protocol", "values", "observation", "test_binarization", "split", "test_sha256")
_CONTRACT = (*_NAMED, "num_examples", "num_levels", "shape", "splits", "files_sha256", "scored_sha256")
_LONGEST = 60  # characters of an objective in a cell


def read_runs(folders: Iterable[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records below some folders of runs, and a line for each that is corrupt.

    A run without a record is not done, and neither ranked nor corrupt.

    Raises:
        UsageError: A folder does not exist.
    """
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for folder in folders:
        try:
            found = folder.is_dir()
        except OSError as error:  # a name that is too long
            raise UsageError(f"{folder} is not a folder of runs: {error.strerror}") from None
        if not found:
            raise UsageError(f"{folder} is not a folder of runs")
        runs = [folder] if (folder / RESULT).is_file() else sorted(folder.iterdir())
        for run in runs:
            if not (run / RESULT).exists() or run.resolve() in seen:
                continue
            seen.add(run.resolve())
            try:
                results.append({**read_result(run), "folder": str(run)})
                contract(results[-1])
                row(results[-1])
            except UsageError as error:
                problems.append(str(error))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                results.pop()
                problems.append(f"{run / RESULT} is not a result: {type(error).__name__} at {error}")
    return results, problems


def contract(result: dict[str, Any]) -> tuple[str, ...]:
    """Return what must be equal for two results to be comparable: the data, its protocol and the scored examples."""
    data = result["data"]
    return tuple(json.dumps(data[key], sort_keys=True) for key in _CONTRACT)


def leaderboard(results: Sequence[dict[str, Any]]) -> list[list[Row]]:
    """Return the rows of each data contract, ranked by log p(x), best first; contracts by name."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for result in results:
        parts.setdefault(contract(result), []).append(row(result))
    for rows in parts.values():
        _label_models(rows)
        rows.sort(key=lambda each: (-each["log_px"], each["run_id"]))
        for rank, each in enumerate(rows, 1):
            each["rank"] = rank
    return [parts[key] for key in sorted(parts)]


def _label_models(rows: Sequence[Row]) -> None:
    """Say of each model what tells it apart: `mlp posterior=maf` where other rows have another posterior."""
    seen: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for key, value in row["model_keys"].items():
            seen.setdefault((row["model"], key), set()).add(str(value))
    for row in rows:
        keys = row.pop("model_keys")
        words = [f"{key.removesuffix('.name')}={keys[key]}" for key in keys if len(seen[row["model"], key]) > 1]
        if words:
            row["model"] = _short(" ".join([row["model"], *words]))


def _mapping(node: object) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a component's keys, those of its parts under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix or key not in ("name", "target"):
            flat[f"{prefix}{key}"] = value
    return flat


def row(result: dict[str, Any]) -> Row:
    """Return one result as a row: every column, and what identifies it.

    Raises:
        KeyError: The result lacks a metric that every evaluation has.
        ValueError: A name or a time of it cannot be shown.
    """
    metrics, data, compute = result["metrics"], result["data"], result["compute"]
    for words in (result["objective"]["direction"], *(data[key] for key in _NAMED)):
        if not isinstance(words, str) or not words.isprintable():
            raise ValueError(f"a name of {str(words)[:40]!r}")

    def value(name: str) -> int | float | None:
        return metrics[name]["value"] if name in metrics else None

    return {
        "rank": 0,
        "objective": objective_label(result["objective"]),
        "model": result["model"],
        "model_keys": _flat(_mapping(result["cfg"].get("model"))),
        "group": config.digest(
            {
                **config.identity({**result["cfg"], "seed": None}),
                "shown": [result["objective"], result["model"]],
            }
        ),
        "seed": result["seed"],
        "log_px": metrics["log_px"]["value"],
        "log_px_se": metrics["log_px"]["se"],
        # Of binary data it is log p(x) in another unit, which no one uses.
        "bits_per_dim": value("bits_per_dim") if data["num_levels"] != 2 else None,
        # -inf cannot be recorded: an evaluation that met it has no such metric, and says so in its diagnostics.
        "elbo": value("elbo_mc"),  # the one that the gap is measured from
        "elbo_gap": value("elbo_gap"),
        "bound": value("bound"),
        "bound_gap": value("bound_gap"),
        "rate": metrics["rate"]["value"],
        "distortion": value("distortion"),
        "active_units": value("active_units"),
        "ess": metrics["ess"]["value"],
        "seconds": _seconds(compute.get("train_seconds", 0.0)) + _seconds(compute["evaluate_seconds"]),
        "truth": str(result["truth"]["tier"]),
        "direction": str(result["objective"]["direction"]),
        "scope": "batch" if result["objective"].get("scope") == "batch" else "example",
        "run_id": result["run_id"],
        "folder": result.get("folder"),
        "data": data["name"],
        "protocol": data["protocol"],
        "split": data["split"],
        "num_examples": data["num_examples"],
        "test_sha256": data["test_sha256"],
        "test_binarization": data["test_binarization"],
    }


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"a time of {str(value)[:40]}")
    return float(value)


def objective_label(objective: dict[str, Any]) -> str:
    """Return an objective with its parameters in a few characters: `iwae K=8`, `beta beta=4 kl=analytic`."""
    parts = [str(objective["name"])]
    for key, value in objective.items():
        if key in ("name", "samples_required", "direction", "scope", "latents"):
            continue
        if key == "num_samples":
            parts += [f"K={value}"] if value != 1 else []
        else:
            parts.append(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}")
    return _short(" ".join(parts))


def _short(words: str) -> str:
    """Return words as they may stand in a cell."""
    label = "".join(sign if sign.isprintable() else "?" for sign in words)
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."
