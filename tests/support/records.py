"""Records as a run writes them, made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elbo_bench.report.leaderboard import leaderboard
from elbo_bench.report.row import Row, row


def metric(value: float, unit: str = "nats") -> dict[str, Any]:
    return {"value": value, "se_test": 0.25, "se_mc": 0.01, "n": 250, "unit": unit, "label": "", "bias": None}


def record(run_id: str, log_px: float, **changes: Any) -> dict[str, Any]:
    """A record as a run writes it; `changes` are dotted with `__`."""
    log_px = float(log_px)
    result: dict[str, Any] = {
        "schema_version": 3,
        "run_id": run_id,
        "status": "done",
        "data": {
            "name": "digits",
            "source": "elbo_bench.data.sets.digits:Digits",
            "protocol": "p",
            "values": "dynamic",
            "test_binarization": "fixed",
            "observation": "discrete",
            "num_levels": 2,
            "shape": [8, 8],
            "splits": {"train": 1297, "validation": 250, "test": 250},
            "files_sha256": {"a": "2" * 64, "b": "3" * 64},
            "split": "test",
            "test_sha256": "0" * 64,
            "scored_sha256": "0" * 64,
            "num_examples": 250,
        },
        "model": "mlp",
        "objective": {"name": "iwae", "num_samples": 8, "samples_required": 8, "direction": "lower"},
        "seed": 0,
        "cfg": {"tag": run_id.rpartition("-s")[0] or run_id},  # what tells configurations apart
        "metrics": {
            "log_px": metric(log_px),
            "elbo_analytic": metric(log_px - 2),
            "elbo_mc": metric(log_px - 2.01),
            "elbo_gap": metric(2.01),
            "bound": metric(log_px - 1),
            "bound_gap": metric(1.0),
            "rate": metric(5.0),
            "distortion": metric(-log_px - 3),
            "ess": metric(100.0, "samples"),
            "active_units": metric(7, "dimensions"),
        },
        "truth": {"tier": "importance", "num_samples": 1000},
        "diagnostics": {"share_passing": 1.0, "pareto_k_max": 0.5},
        "checkpoint": {},
        "compute": {"train_seconds": 3.0, "evaluate_seconds": 1.5},
        "provenance": {},
    }
    for path, value in changes.items():
        node = result
        *inner, last = path.split("__")
        for key in inner:
            node = node[key]
        node[last] = value
    return result


def write(root: Path, result: dict[str, Any] | str, name: str, **examples: np.ndarray) -> None:
    (root / name).mkdir(parents=True)
    text = result if isinstance(result, str) else json.dumps(result)
    (root / name / "result.json").write_text(text)
    if examples:
        np.savez(root / name / "examples.npz", **examples)


def as_row(result: Any) -> Row:
    """The row of a record that lies in no folder."""
    return row(result, "nowhere")


def ranked(results: Sequence[dict[str, Any]], **options: bool) -> list[list[Row]]:
    return leaderboard([as_row(result) for result in results], **options)


KS = (1, 2, 5, 10, 20, 50, 64, 100, 200, 500, 1000)


def full(run_id: str, log_px: float, gap: float = 2.0, **changes: Any) -> dict[str, Any]:
    """A record with all that a page draws."""
    gap = float(gap)
    result = record(run_id, log_px, **changes)
    result["metrics"]["elbo_mc"] = metric(log_px - gap)
    result["metrics"]["elbo_gap"] = metric(gap)
    result["metrics"] |= {f"L_{k}": metric(log_px - gap / k) for k in KS}
    result["checkpoint"] = {
        "validation": [
            {"epoch": step, "step": 100 * step, "metrics": {"elbo_gap": gap * (1 + 5 / step), "bound_gap": gap / step}}
            for step in range(1, 8)
        ]
    }
    return result


def write_full(root: Path, result: dict[str, Any], name: str) -> None:
    generator = np.random.default_rng(len(name))
    log_px = result["metrics"]["log_px"]["value"]
    gap = result["metrics"]["elbo_gap"]["value"]
    examples = generator.normal(size=250)
    write(
        root,
        result,
        name,
        id=np.arange(250),
        log_px=log_px + 20 * (examples - examples.mean()),
        elbo_gap=gap * generator.lognormal(size=250),
    )
    for sheet in ("samples", "reconstructions"):
        Image.fromarray(generator.integers(0, 255, (90, 180), dtype=np.uint8)).save(root / name / f"{sheet}.png")
