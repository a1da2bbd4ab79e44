"""A result on the terminal: each number with its error, and in words which KL is which."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from elbo_bench.apps.terminal import console

_ROWS = {
    "log_px": "log p(x), by importance sampling",
    "elbo_analytic": "ELBO, rate in closed form",
    "elbo_mc": "ELBO, Monte Carlo",
    "bound": "the bound trained with: {objective}",
    "elbo_gap": "log p(x) - ELBO = KL(q(z|x) || p(z|x))",
    "bound_gap": "log p(x) - the bound trained with",
    "rate": "rate = KL(q(z|x) || p(z))",
    "distortion": "distortion = -E_q[log p(x|z)]",
    "ess": "effective sample size of {num_samples} samples",
    "active_units": "latent dimensions that say something about x",
}

_AGAINST_LOG_PX = ("log_px", "elbo_gap", "bound_gap")


def show_result(result: dict[str, Any], folder: Path, *, as_json: bool, note: str = "") -> None:
    """Print a result as a table, or as JSON with the folder that it lies in."""
    if as_json:
        print(json.dumps({**result, "folder": str(folder)}, indent=2))  # noqa: T201
        return
    out = console(110)
    objective = result["objective"]
    samples = objective.get("samples_required", 1)
    words = {
        "objective": objective["name"] + (f" K={samples}" if samples != 1 else ""),
        "num_samples": result["truth"]["num_samples"],
    }
    data = result["data"]
    table = Table(
        title=Text(f"{result['run_id']}: {data['num_examples']} {data['split']} examples"), title_justify="left"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("+- SE", justify="right")
    table.add_column("MC part", justify="right")
    table.add_column("unit")
    table.add_column("what it is")
    for name, meaning in _ROWS.items():
        metric = result["metrics"].get(name)
        if metric is not None:
            whole = isinstance(metric["value"], int)
            value = str(metric["value"]) if whole else f"{metric['value']:.3f}"
            errors = ["" if metric[key] is None else f"{metric[key]:.3f}" for key in ("se", "se_mc")]
            if name in _AGAINST_LOG_PX and result["truth"]["tier"] == "lower-bound-only":
                value, errors = f">= {value}", ["", ""]  # an interval around it would not cover
            table.add_row(name, value, *errors, Text(metric["unit"]), Text(meaning.format(**words)))
    out.print(table)
    out.print(Text(_truth(result)))
    if note:
        out.print(Text(note))
    out.print(Text(f"record: {folder}"), soft_wrap=True)


def _truth(result: dict[str, Any]) -> str:
    share, k_hat = result["diagnostics"]["share_passing"], result["diagnostics"]["pareto_k_max"]
    worst = "none" if k_hat is None else f"{k_hat:.2f}"
    passing = f"{share:.1%} of the examples pass the diagnostics, largest k-hat {worst}"
    if result["truth"]["tier"] == "lower-bound-only":
        return f"truth: lower bound only ({passing}): log p(x) is at least this, and each gap too."
    return f"truth: importance sampling ({passing}); it is biased low, so the true gaps are slightly larger."
