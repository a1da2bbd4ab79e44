"""The gaps over the steps of training, on validation examples."""

from typing import Any

import altair as alt

from elbo_bench.report.charts.plot import LOG_AXIS, Plot, colour, shape, values
from elbo_bench.report.shown import Shown

_KINDS = {"elbo_gap": "ELBO gap", "bound_gap": "gap of the objective"}
_SAME = 0.05
"""Relative difference of the two gaps below which one line is drawn for both."""


def plot(shown: Shown) -> Plot | None:
    """Return gaps over steps; None if no run has validation metrics."""
    rows: list[dict[str, Any]] = []
    for each in shown.series:
        measured = each.validation()
        both = [metrics for _, metrics in measured if "elbo_gap" in metrics and "bound_gap" in metrics]
        same = all(abs(m["elbo_gap"] - m["bound_gap"]) <= _SAME * abs(m["elbo_gap"]) for m in both)
        for step, metrics in measured:
            for key in ("elbo_gap",) if same else ("elbo_gap", "bound_gap"):
                if key in metrics:
                    rows.append({"label": each.label, "step": step, "kind": _KINDS[key], "gap": metrics[key]})  # noqa: PERF401
    if not rows:
        return None
    scale = alt.Scale(type="log") if all(row["gap"] > 0 for row in rows) else alt.Scale(type="symlog", constant=0.1)
    dash = alt.StrokeDash("kind:N", scale=alt.Scale(domain=[*_KINDS.values()], range=[[1, 0], [5, 4]]), legend=None)
    base = alt.Chart(values(rows)).encode(
        x=alt.X("step:Q", title="optimiser step"),
        y=alt.Y("mean(gap):Q", scale=scale, title="nats, validation examples", axis=LOG_AXIS),
        color=colour(shown.labels),
    )
    detail = ["label:N", "kind:N", "step:Q", alt.Tooltip("mean(gap):Q", format=".3f", title="gap")]
    chart = alt.layer(
        base.mark_line().encode(strokeDash=dash),
        base.mark_point(filled=True, size=35).encode(shape=shape(shown.labels), detail="kind:N", tooltip=detail),
    )
    caption = (
        "log p(x) - ELBO = KL(q(z|x) ‖ p(z|x)), and dashed the gap of the objective where it differs. During training "
        "log p(x) is estimated from few samples and biased low, so the gaps are too small. Mean over seeds."
    )
    return Plot("tightness", "Tightness over training", caption, chart)
