"""The ELBO gap over log p(x): a model with a small gap can have a low log p(x)."""

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
        "The ELBO gap, log p(x) - ELBO = KL(q(z|x) ‖ p(z|x)), over log p(x). The best model is at the right, the "
        "tightest ELBO at the bottom. If log p(x) is a lower bound only, so is the gap."
    )
    return Plot("gap-over-log-px", "ELBO gap over log p(x)", caption, chart)
