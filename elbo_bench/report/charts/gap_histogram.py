"""Histogram of the ELBO gap over examples. A large mean may come from a few examples."""

from typing import Any

import altair as alt
import numpy as np

from elbo_bench.report.charts.plot import Plot, colour, shape, values
from elbo_bench.report.shown import Shown

_BINS = 30


def plot(shown: Shown) -> Plot | None:
    """Return a histogram of each series' first seed; None if no run has its examples."""
    gaps = {each.label: each.examples.get("elbo_gap") for each in shown.series}
    known = {
        label: found[np.isfinite(found)]
        for label, found in gaps.items()
        if found is not None and found.ndim == 1 and found.dtype.kind == "f" and np.isfinite(found).any()
    }
    if not known:
        return None
    together = np.concatenate([*known.values()])
    low, high = min(0.0, float(np.quantile(together, 0.001))), float(np.quantile(together, 0.99))
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    rows: list[dict[str, Any]] = []
    for label, found in known.items():
        counts, _ = np.histogram(np.clip(found, edges[0], edges[-1]), edges)
        rows += [
            {"label": label, "gap": float(left + (edges[1] - edges[0]) / 2), "share": float(count / len(found))}
            for left, count in zip(edges, counts, strict=False)
        ]
    base = alt.Chart(values(rows)).encode(
        x=alt.X("gap:Q", title="log p(x) - ELBO of an example, nats"),
        y=alt.Y("share:Q", title="share of the examples", axis=alt.Axis(format=".0%")),
        color=colour(shown.labels),
    )
    tooltip = ["label:N", alt.Tooltip("gap:Q", format=".2f"), alt.Tooltip("share:Q", format=".1%")]
    chart = alt.layer(
        base.mark_line(interpolate="step"),
        base.mark_point(filled=True, size=22).encode(shape=shape(shown.labels), tooltip=tooltip),
    )
    caption = (
        "KL(q(z|x) ‖ p(z|x)) of each test example, for one seed of each configuration. The last bin contains all "
        "larger values. Values below zero are Monte Carlo error."
    )
    return Plot("gap-histogram", "The ELBO gap, example by example", caption, chart)
