"""One record as a row: what a leaderboard shows of it, and what it may be compared with."""

import json
from typing import Any

from elbo_bench import config

Row = dict[str, Any]

_NAMED = ("name", "source", "protocol", "values", "observation", "test_binarization", "split", "test_sha256")
_CONTRACT = (*_NAMED, "num_examples", "num_levels", "shape", "splits", "files_sha256", "scored_sha256")
_SETTINGS = ("optimizer", "module", "trainer", "evaluation")
_LONGEST = 60  # characters of an objective in a cell
_MOST_EXAMPLES = 10**9
_LOWER_BOUND = "lower-bound-only"


def contract(result: dict[str, Any]) -> tuple[str, ...]:
    """Return what must be equal for two results to be comparable: the data, its protocol and the scored examples.

    Raises:
        KeyError: The record lacks a part of it.
    """
    data = result["data"]
    return tuple(_canonical(data[key]) for key in _CONTRACT)


def _canonical(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def row(result: dict[str, Any]) -> Row:
    """Return one result as a row: every column, and what identifies it.

    Raises:
        KeyError: The result lacks a metric that every evaluation has.
        ValueError: A name or a time of it cannot be shown.
    """
    metrics, data, compute = result["metrics"], result["data"], result["compute"]
    objective, identity = result["objective"], config.identity(result["cfg"])
    for words in (objective["direction"], *(data[key] for key in _NAMED)):
        if not isinstance(words, str) or not words.isprintable():
            raise ValueError(f"a name of {str(words)[:40]!r}")

    if not 1 <= data["num_examples"] <= _MOST_EXAMPLES:
        raise ValueError(f"{data['num_examples']} examples")

    def value(name: str) -> int | float | None:
        return metrics[name]["value"] if name in metrics else None

    return {
        "objective": objective_label(objective),
        "model": result["model"],
        "model_keys": _flat(_mapping(result["cfg"].get("model"))),
        "settings": _settings(identity),
        "group": config.digest(
            {**identity, "seed": None, "shown": [objective, result["model"]]},
        ),
        "seed": result["seed"],
        "log_px": metrics["log_px"]["value"],
        "se_mc": metrics["log_px"]["se_mc"],
        "se_test": metrics["log_px"]["se"],
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
        "direction": objective["direction"],
        "weighted": objective["name"] == "beta" and objective.get("beta") != 1 and objective["direction"] != "none",
        "scope": "batch" if objective.get("scope") == "batch" else "example",
        "run_id": result["run_id"],
        "data": data["name"],
        "protocol": data["protocol"],
        "split": data["split"],
        "num_examples": data["num_examples"],
        "test_sha256": data["test_sha256"],
        "test_binarization": data["test_binarization"],
    }


def is_lower_bound(row: Row) -> bool:
    """Return whether log p(x) of a row is a lower bound only, without an interval."""
    return bool(row["truth"] == _LOWER_BOUND)


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"a time of {str(value)[:40]}")
    return float(value)


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    """Return under dotted names what a run is told by besides its data, model, objective and seed."""
    return {
        f"{group}.{key}": value
        for group in _SETTINGS
        for key, value in _flat({**_mapping(identity.get(group)), "name": None}).items()
    }


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
    return short(" ".join(parts))


def short(words: str) -> str:
    """Return words as they may stand in a cell."""
    label = "".join(sign if sign.isprintable() else "?" for sign in words)
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."
