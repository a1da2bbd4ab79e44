"""A plot with its title and caption, and the colour and shape of each series."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import altair as alt

from elbo_bench.report.shown import OTHERS

# Okabe and Ito (2008), without yellow and black, which are hard to see on a white or dark page; grey for the others.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D3B", "#6A51A3")
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "stroke")
_GREY = "#8C8C8C"
LOG_AXIS = alt.Axis(labelOverlap="greedy", labelSeparation=8)
PARTS = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00")
"""Colours of the parts of a bar, from dark to light and back: they differ in lightness, too."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: Name of the file, and anchor on the page.
        title: Heading.
        caption: What the plot shows: which gap, which KL divergence.
        chart: The chart, without a size.
        height: Height on the page in pixels, above the axis.
    """

    name: str
    title: str
    caption: str
    chart: alt.Chart | alt.LayerChart | alt.FacetChart
    height: int = 280


def values(rows: Sequence[dict[str, Any]]) -> alt.Data:
    """Return rows as inline data."""
    return alt.Data(values=list(rows))


def _legend(labels: Sequence[str]) -> alt.Legend:
    longest = max(map(len, labels), default=0)
    columns = 1 if longest > 22 else 2
    return alt.Legend(title=None, orient="bottom", direction="vertical", columns=columns, symbolOpacity=1)


def colour(labels: Sequence[str], *, others: bool = False) -> alt.Color:
    """Return the colour of each series; it is the same in every plot of a contract."""
    domain, colours = [*labels], [*_COLOURS[: len(labels)]]
    if others:
        domain, colours = [*domain, OTHERS], [*colours, _GREY]
    return alt.Color("label:N", scale=alt.Scale(domain=domain, range=colours), legend=_legend(domain))


def shape(labels: Sequence[str], *, others: bool = False) -> alt.Shape:
    """Return the shape of each series, for readers who cannot see its colour."""
    domain, shapes = [*labels], [*_SHAPES[: len(labels)]]
    if others:
        domain, shapes = [*domain, OTHERS], [*shapes, "circle"]
    return alt.Shape("label:N", scale=alt.Scale(domain=domain, range=shapes), legend=_legend(domain))


def stacked_bars(rows: Sequence[dict[str, Any]], labels: Sequence[str], parts: dict[str, str]) -> alt.Chart:
    """Return a stacked bar for each series.

    Args:
        rows: Parts of bars, with the keys `label`, `part`, `order` within the bar, and `nats`.
        labels: Labels of the series, from top to bottom.
        parts: The colour of each part.
    """
    scale = alt.Scale(domain=[*parts], range=[*parts.values()])
    legend = alt.Legend(title=None, orient="bottom", direction="vertical")
    bars: alt.Chart = (
        alt.Chart(values(rows))
        .mark_bar()
        .encode(
            y=alt.Y("label:N", sort=[*labels], title=None, axis=alt.Axis(labelLimit=170)),
            x=alt.X("nats:Q", stack="zero", title="nats"),
            color=alt.Color("part:N", scale=scale, legend=legend),
            order="order:Q",
            tooltip=["label:N", "part:N", alt.Tooltip("nats:Q", format=".3f")],
        )
    )
    return bars
