"""L_K over K, with log p(x), which no L_K exceeds in expectation."""

from typing import Any

import altair as alt

from elbo_bench.report.charts.plot import LOG_AXIS, Plot, colour, shape, values
from elbo_bench.report.shown import Shown

_NORMAL = 1.959964


def plot(shown: Shown) -> Plot | None:
    """Return the curves of all series; None if no record has a bound L_K."""
    curves: list[dict[str, Any]] = []
    truths: list[dict[str, Any]] = []
    largest = 1
    for each in shown.series:
        for size in each.sample_sizes():
            value, error = each.mean(f"L_{size}"), each.mean(f"L_{size}", "se_mc")
            assert value is not None
            curves.append({"label": each.label, "K": size, "value": value, "error": error})
            largest = max(largest, size)
        log_px, error = each.mean("log_px"), each.mean("log_px", "se_mc")
        if log_px is None:
            continue
        kind = "lower bound on log p(x)" if each.row.is_lower_bound else "log p(x)"
        truth = {"label": each.label, "value": log_px, "kind": kind, "from": 1}
        if error is not None and not each.row.is_lower_bound:
            truth |= {"low": log_px - _NORMAL * error, "high": log_px + _NORMAL * error}
        truths.append(truth)
    if not curves:
        return None
    truths = [{**each, "to": largest} for each in truths]
    colours, shapes = colour(shown.labels), shape(shown.labels)
    x = alt.X("K:Q", scale=alt.Scale(type="log", nice=False), title="K, samples of q(z|x)", axis=LOG_AXIS)
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), title="nats, mean over the test examples")
    tooltip = [alt.Tooltip("label:N"), alt.Tooltip("K:Q"), alt.Tooltip("value:Q", format=".3f")]
    line = alt.Chart(values(curves)).encode(x=x, y=y, color=colours)
    truth_line = alt.Chart(values(truths)).encode(x=alt.X("from:Q"), x2="to:Q", color=colours)
    layers: list[alt.Chart] = []
    if intervals := [each for each in truths if "low" in each]:
        band = alt.Chart(values(intervals)).mark_rect(opacity=0.18)
        layers.append(band.encode(x=alt.X("from:Q"), x2="to:Q", y=alt.Y("low:Q"), y2="high:Q", color=colours))
    chart = alt.layer(
        *layers,
        truth_line.mark_rule(strokeDash=[6, 3], strokeWidth=1.5).encode(
            y="value:Q", tooltip=["label:N", "kind:N", alt.Tooltip("value:Q", format=".3f")]
        ),
        line.mark_line(),
        line.mark_point(filled=True, size=55).encode(shape=shapes, tooltip=tooltip),
    )
    caption = (
        "L_K, the importance-weighted bound with K samples of the encoder, and log p(x) (dashed). The band is the 95 % "
        "interval of its Monte Carlo error. If log p(x) is a lower bound only, there is no band. L_1 is the ELBO."
    )
    return Plot("k-curve", "Bounds over K", caption, chart)
