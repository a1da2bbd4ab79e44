"""The ELBO gap against log p(x): tight is not good, and good is not tight."""

import altair as alt

from elbo_bench.report.charts.plot import Plot, colour, shape, values
from elbo_bench.report.shown import OTHERS, Shown


def plot(shown: Shown) -> Plot | None:
    """Return every configuration as a point; None if no record has the ELBO gap."""
    points = [point for point in shown.points() if point["elbo_gap"] is not None]
    if not points:
        return None
    others = any(point["label"] == OTHERS for point in points)
    chart = (
        alt.Chart(values(points))
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=alt.X("log_px:Q", title="log p(x), nats", scale=alt.Scale(zero=False)),
            y=alt.Y("elbo_gap:Q", title="ELBO gap, nats"),
            color=colour(shown.labels, others=others),
            shape=shape(shown.labels, others=others),
            tooltip=["rank:Q", "name:N", *(alt.Tooltip(f"{key}:Q", format=".2f") for key in ("log_px", "elbo_gap"))],
        )
    )
    caption = (
        "The best model is to the right, the tightest ELBO below: log p(x) against log p(x) - ELBO = "
        "KL(q(z|x) ‖ p(z|x)). Both are lower bounds where log p(x) is one."
    )
    return Plot("gap-over-log-px", "Tight, and good?", caption, chart)
