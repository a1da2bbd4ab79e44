"""The rate-distortion plane (Alemi et al., 2018), with lines of equal ELBO."""

import math
from typing import Any

import altair as alt

from elbo_bench.report.charts.plot import Plot, colour, shape, values
from elbo_bench.report.shown import OTHERS, Shown

_LINES = 6


def plot(shown: Shown) -> Plot | None:
    """Return every configuration as a point; None if no record has a distortion."""
    points = [point for point in shown.points() if point["distortion"] is not None]
    if not points:
        return None
    others = any(point["label"] == OTHERS for point in points)
    rates, distortions = ([float(point[key]) for point in points] for key in ("rate", "distortion"))
    x_domain, y_domain = _padded(rates), _padded(distortions)
    x_scale, y_scale = (alt.Scale(domain=domain, nice=False, zero=False) for domain in (x_domain, y_domain))
    base = alt.Chart(values(points)).encode(
        x=alt.X("rate:Q", title="rate: KL(q(z|x) || p(z)), nats", scale=x_scale),
        y=alt.Y("distortion:Q", title="distortion, nats", scale=y_scale),
        color=colour(shown.labels, others=others),
        shape=shape(shown.labels, others=others),
        tooltip=[
            "rank:Q",
            "name:N",
            *(alt.Tooltip(f"{key}:Q", format=".2f") for key in ("rate", "distortion", "elbo")),
        ],
    )
    lines = alt.Chart(values(_iso_elbo(x_domain, y_domain)))
    chart = alt.layer(
        lines.mark_rule(opacity=0.35, strokeDash=[2, 3], clip=True).encode(
            x=alt.X("x:Q", scale=x_scale), y=alt.Y("y:Q", scale=y_scale), x2="x2:Q", y2="y2:Q"
        ),
        base.mark_point(filled=True, size=80, opacity=0.85),
    )
    caption = (
        "The rate, KL(q(z|x) ‖ p(z)), is the KL divergence inside the ELBO; it is not a gap. The distortion is "
        "-E_q[log p(x|z)]. ELBO = -(rate + distortion) is constant along a dotted line."
    )
    return Plot("rate-distortion", "Rate and distortion", caption, chart)


def _padded(numbers: list[float]) -> list[float]:
    low, high = min(numbers), max(numbers)
    margin = 0.08 * (high - low) or max(1.0, 0.05 * abs(high))
    return [low - margin, high + margin]


def _iso_elbo(x_domain: list[float], y_domain: list[float]) -> list[dict[str, Any]]:
    """Return lines of equal ELBO, at round values."""
    low, high = x_domain[0] + y_domain[0], x_domain[1] + y_domain[1]
    step = 10.0 ** math.floor(math.log10((high - low) / _LINES))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= _LINES)
    sums = [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [
        {"x": x_domain[0], "y": total - x_domain[0], "x2": x_domain[1], "y2": total - x_domain[1]} for total in sums
    ]
