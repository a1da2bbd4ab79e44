"""A record on the terminal: every metric with its errors, and what it is."""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from elbo_bench.report.console import console

_CURVE = re.compile(r"L_\d+$")


def show_result(result: Mapping[str, Any], folder: Path, *, as_json: bool, note: str = "") -> None:
    """Print a record as a table, or as JSON together with its folder."""
    if as_json:
        print(json.dumps({**result, "folder": str(folder)}, indent=2))  # noqa: T201
        return
    out = console(110)
    objective = result["objective"]
    samples = objective.get("samples_required", 1)
    every = objective.get("latents") == "enumerated"
    size = f" over all {samples} values of z" if every else f" K={samples}" if samples != 1 else ""
    data, num_samples = result["data"], result["truth"]["num_samples"]
    named = objective["name"] + size
    table = Table(
        title=Text(f"{result['run_id']}: {data['num_examples']} {data['split']} examples"), title_justify="left"
    )
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("+- SE", justify="right")
    table.add_column("MC part", justify="right")
    table.add_column("unit")
    table.add_column("what it is")
    for name, metric in result["metrics"].items():
        if _CURVE.match(name) and name != f"L_{num_samples}":
            continue
        value = str(metric["value"]) if isinstance(metric["value"], int) else f"{metric['value']:.3f}"
        errors = ["" if metric[key] is None else f"{metric[key]:.3f}" for key in ("se_test", "se_mc")]
        if metric["bias"] is not None and result["truth"]["tier"] == "lower-bound-only":
            sign = ">=" if metric["bias"] == "low" else "<="
            value, errors = f"{sign} {value}", ["", ""]  # its interval would not cover the true value
        label = f"{metric['label']}: {named}" if name == "bound" else metric["label"]
        table.add_row(Text(name), value, *errors, Text(metric["unit"]), Text(label))
    out.print(table)
    out.print(Text(_truth(result)))
    for line in result["diagnostics"].get("notes", []):
        out.print(Text(f"Note: {line}"))
    if reason := result["diagnostics"].get("bound_excluded"):
        out.print(Text(f"Not evaluated: the objective, {named}: {reason}."))
    if exact := result["diagnostics"].get("exact"):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # an edited record
            out.print(_beside_exact(result, exact))
    if note:
        out.print(Text(note))
    out.print(Text(f"record: {folder}"), soft_wrap=True)


def _truth(result: Mapping[str, Any]) -> str:
    """Return a sentence on the basis of the estimate of log p(x)."""
    tier, diagnostics, estimator = result["truth"]["tier"], result["diagnostics"], result["truth"].get("estimator")
    if tier == "none":
        return "truth: no estimate of log p(x) is made."
    if tier == "sandwiched":
        return f"truth: sandwiched between a lower and an upper bound ({estimator})."
    share, k_hat = diagnostics.get("share_passing"), diagnostics.get("pareto_k_max")
    parts = [] if share is None else [f"{share:.1%} of the examples pass the diagnostics"]
    parts += [] if k_hat is None else [f"largest k-hat {k_hat:.2f}"]
    passing = ", ".join(parts)
    lines = {
        "exact": f"truth: exact, by {estimator}" + (f"; by importance sampling, {passing}." if parts else "."),
        "importance": f"truth: importance sampling ({passing}); biased low, so the true gaps are slightly larger.",
        "lower-bound-only": f"truth: lower bound only ({passing}): log p(x) and the gaps are at least these values.",
    }
    words = [lines[tier]] if tier in lines else [f"truth: {tier}."]
    if nowhere := diagnostics.get("minus_infinity"):
        named = ", ".join(f"{name!a} ({count!a} examples)" for name, count in nowhere.items())
        words.append(f"Not finite, since q(z|x) has mass where p(x|z) is zero: {named}.")
    return " ".join(words)


def _beside_exact(result: Mapping[str, Any], exact: dict[str, Any]) -> Table:
    """Return a table of estimates of log p(x): how far they lie below the exact values, and what diagnostics say."""
    largest = f"L_{result['truth']['num_samples']}"
    title = Text("Beside the exact log p(x): nats below it, on average and at most")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("estimate", no_wrap=True)
    for heading in ("mean", "below", "at most", "pass", "cover", "wrong", "unseen"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(f"exact, by {exact['method']}", f"{result['metrics']['log_px']['value']:.3f}", *[""] * 6)
    names = {
        "log_px_is": f"importance sampling, proposal={result['cfg']['evaluation']['proposal']}",
        largest: f"{largest}, by the encoder's q(z|x)",
        "elbo_mc": "ELBO; below: KL(q(z|x) || p(z|x))",
    }
    for name, words in names.items():
        if (row := exact[name]) is None:
            continue
        cells = [f"{row['mean']:.3f}", f"{row['short_mean']:.4f}", f"{row['short_max']:.2f}"]
        if "wrong" in row:
            covered = row["coverage_where_passing"]
            cells += [f"{row['share_passing']:.1%}", "" if covered is None else f"{covered:.1%}"]
            cells += [str(row["wrong"]), str(len(row["wrong_and_passing"]))]
        table.add_row(Text(words), *cells)
    table.caption = Text(
        "pass: share of examples whose diagnostics pass; cover: of those, 95 % intervals that hold; wrong: off by more "
        "than 4 standard errors and 0.25 nat; unseen: wrong, and passing"
    )
    table.caption_justify = "left"
    return table
