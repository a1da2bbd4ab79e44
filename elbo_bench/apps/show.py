"""A result on the terminal: each number with its error, and in words which KL is which."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from elbo_bench.apps.terminal import console

_ROWS = {
    "log_px": "log p(x): {estimator}",
    "log_px_is": "log p(x), by importance sampling instead",
    "bits_per_dim": "-log2 p(x) / dimensions; of the levels, where data are dequantised: at most",
    "log_px_true": "log-density of what the data were drawn from: the ceiling",
    "kl_from_truth": "the ceiling - log p(x), in expectation KL(data || model)",
    "L_{num_samples}": "L_K, by {num_samples} samples of the encoder's q(z|x) alone",
    "elbo_analytic": "ELBO, rate in closed form",
    "elbo_mc": "ELBO, Monte Carlo",
    "bound": "the bound trained with: {objective}",
    "elbo_gap": "log p(x) - ELBO = KL(q(z|x) || p(z|x))",
    "bound_gap": "log p(x) - the bound trained with",
    "rate": "rate = KL(q(z|x) || p(z))",
    "distortion": "distortion = -E_q[log p(x|z)]",
    "ess": "effective sample size of the weights",
    "active_units": "latent dimensions that say something about x",
    "log_px_lower": "stochastic lower bound on log p(x): forward AIS",
    "log_px_upper": "stochastic upper bound on log p(x): reverse AIS from the exact sample",
    "width": "upper - lower",
    "eubo": "log p(x,z) - log q(z|x) at the exact z: an upper bound in expectation",
    "elbo_local": "ELBO of q*, the best q of its family for each example",
    "approximation_gap": "log p(x) - ELBO of q*: what the family costs",
    "amortisation_gap": "ELBO of q* - ELBO of q(z|x): what the encoder costs",
    "log_px_encoder": "log p(x), from the encoder's q(z|x) alone",
    "log_px_local": "log p(x), from q* alone",
    "log_px_pool": "log p(x), from q(z|x), q* and the prior together",
    "log_px_refit": "log p(x), from an encoder refitted on these examples",
    "elbo_refit": "ELBO of that encoder",
    "mutual_information": "I(x; z) under q; at most log N",
    "marginal_kl": "KL(q(z) || p(z)) of the aggregated posterior; rate = I + this",
    "acceptance": "accepted moves of Hamiltonian Monte Carlo",
}

_CURVE = re.compile(r"L_\d+$")


def show_result(result: dict[str, Any], folder: Path, *, as_json: bool, note: str = "") -> None:
    """Print a result as a table, or as JSON with the folder that it lies in."""
    if as_json:
        print(json.dumps({**result, "folder": str(folder)}, indent=2))  # noqa: T201
        return
    out = console(110)
    objective = result["objective"]
    samples = objective.get("samples_required", 1)
    every = objective.get("latents") == "enumerated"
    size = f" over all {samples} values of z" if every else f" K={samples}" if samples != 1 else ""
    words = {
        "objective": objective["name"] + size,
        "num_samples": result["truth"]["num_samples"],
        "estimator": result["truth"].get("estimator", "importance sampling"),
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
    rows = {name.format(**words): meaning.format(**words) for name, meaning in _ROWS.items()}
    others = [name for name in result["metrics"] if name not in rows and not _CURVE.match(name)]
    for name in [*rows, *others]:
        metric = result["metrics"].get(name)
        if metric is None:
            continue
        value = str(metric["value"]) if isinstance(metric["value"], int) else f"{metric['value']:.3f}"
        errors = ["" if metric[key] is None else f"{metric[key]:.3f}" for key in ("se", "se_mc")]
        against = name == "log_px" or (name.endswith("_gap") and name != "amortisation_gap")
        at_most = name in ("bits_per_dim", "kl_from_truth")
        if (against or at_most) and result["truth"]["tier"] == "lower-bound-only":
            value, errors = f"{'<=' if at_most else '>='} {value}", ["", ""]  # an interval around it would not cover
        table.add_row(Text(name), value, *errors, Text(metric["unit"]), Text(rows.get(name, "")))
    out.print(table)
    out.print(Text(_truth(result)))
    for line in result["diagnostics"].get("notes", []):
        out.print(Text(f"Note: {line}"))
    if isinstance(reason := result["diagnostics"].get("bound_left_out"), str):
        out.print(Text(f"Not evaluated: the objective trained with, {words['objective']}: {reason}."))
    if isinstance(exact := result["diagnostics"].get("exact"), dict):
        with contextlib.suppress(KeyError, TypeError, ValueError):  # a record that someone has edited
            out.print(_beside_exact(result, exact))
    if note:
        out.print(Text(note))
    out.print(Text(f"record: {folder}"), soft_wrap=True)


def _truth(result: dict[str, Any]) -> str:
    """Return in words what the estimate of log p(x) stands on."""
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
        "lower-bound-only": f"truth: lower bound only ({passing}): log p(x) is at least this, and each gap too.",
    }
    words = [lines[tier]] if tier in lines else [f"truth: {tier}."]
    if nowhere := diagnostics.get("minus_infinity"):
        named = ", ".join(f"{name!a} ({count!a} examples)" for name, count in nowhere.items())
        words.append(f"Not finite, as q(z|x) reaches where p(x|z) is zero: {named}.")
    return " ".join(words)


def _beside_exact(result: dict[str, Any], exact: dict[str, Any]) -> Table:
    """Return estimates of log p(x) beside the exact values: how far below, and whether their diagnostics noticed."""
    whole = f"L_{result['truth']['num_samples']}"
    title = Text("Beside the exact log p(x): nats below it, on average and at most")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("estimate", no_wrap=True)
    for heading in ("mean", "below", "at most", "pass", "cover", "wrong", "unseen"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row(f"exact, by {exact['method']}", f"{result['metrics']['log_px']['value']:.3f}", *[""] * 6)
    names = {
        "log_px_is": f"importance sampling, proposal={result['cfg']['evaluation']['proposal']}",
        whole: f"{whole}, by the encoder's q(z|x)",
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
