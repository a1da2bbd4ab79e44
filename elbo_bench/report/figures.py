"""Plots as vector files for a paper, at the width of its column."""

import copy
from collections.abc import Callable
from typing import Any

import vl_convert

from elbo_bench.report.charts.plot import Plot

_POINTS = 72  # to the inch; vl-convert's pixels in SVG and PDF
_SCALE = 300 / _POINTS  # of PNG: 300 pixels to the inch
_PAPER: dict[str, Any] = {
    "background": "white",
    "view": {"stroke": None},
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "axis": {
        "labelFontSize": 7,
        "titleFontSize": 8,
        "titleFontWeight": "normal",
        "gridOpacity": 0.35,
        "domainColor": "#444444",
        "tickSize": 3,
    },
    "legend": {"labelFontSize": 7, "symbolSize": 36, "rowPadding": 1, "labelLimit": 220, "offset": 6},
    "line": {"strokeWidth": 1.1},
    "point": {"size": 18, "strokeWidth": 0.8},
    "rule": {"color": "#444444"},
}
FORMATS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "svg": lambda specification: vl_convert.vegalite_to_svg(specification).encode(),
    "pdf": lambda specification: vl_convert.vegalite_to_pdf(specification),
    "png": lambda specification: vl_convert.vegalite_to_png(specification, scale=_SCALE, ppi=_POINTS),
}


def figure(plot: Plot, inches: float) -> dict[str, bytes]:
    """Return a plot as SVG, PDF and PNG. Its width, with the labels, is that of a column.

    Args:
        plot: The plot. Its caption is not drawn.
        inches: Width of the column.
    """
    width = inches * _POINTS
    sized = plot.chart.properties(width=width, height=round(min(plot.height, 0.62 * width)))
    specification = _smaller(copy.deepcopy(sized.to_dict()))
    specification["config"] = _PAPER
    specification["autosize"] = {"type": "fit-x", "contains": "padding"}
    specification["padding"] = 2
    return {form: write(specification) for form, write in FORMATS.items()}


def _smaller(node: Any) -> Any:
    """Return a specification with smaller points: its own sizes are for the page."""
    if isinstance(node, dict):
        small = {key: _smaller(value) for key, value in node.items()}
        if small.get("type") == "point":
            small["size"] = 0.3 * small.get("size", 60)
        return small
    return [_smaller(each) for each in node] if isinstance(node, list) else node
