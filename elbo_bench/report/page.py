"""The page of a leaderboard: one HTML file that loads nothing else.

Tables are static HTML; DataTables (through itables) makes them sortable and searchable. Plots are drawn by Vega-Lite
(through Altair) as SVG. They use the colours of the page, light or dark.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itables.options
import jinja2
import vl_convert
from itables.javascript import generate_init_offline_itables_html, html_table_from_template
from markupsafe import Markup

from elbo_bench import __version__
from elbo_bench.report.cells import cell, footnotes, split_columns, with_content
from elbo_bench.report.charts import plots
from elbo_bench.report.charts.plot import Plot
from elbo_bench.report.pictures import Pictures
from elbo_bench.report.row import Column, Row
from elbo_bench.report.shown import MOST, Shown

_ROOM_FOR_PLOTS = 900_000  # bytes
_VEGA_LITE = "6.4"
_LENGTHS = [25, 100, -1]
_TEXT = "currentColor"
_LOOK: dict[str, Any] = {
    "background": "transparent",
    "view": {"stroke": None},
    "font": "system-ui, 'Noto Sans', sans-serif",
    "axis": {
        "labelColor": _TEXT,
        "titleColor": _TEXT,
        "domainColor": _TEXT,
        "tickColor": _TEXT,
        "gridColor": _TEXT,
        "gridOpacity": 0.12,
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "labelOverlap": "greedy",
        "labelSeparation": 8,
    },
    "legend": {
        "labelColor": _TEXT,
        "titleColor": _TEXT,
        "labelFontSize": 12,
        "labelLimit": 300,
        "symbolSize": 90,
        "rowPadding": 3,
    },
    "rule": {"color": _TEXT},
}
_EMBED = {"renderer": "svg", "actions": {"export": True, "source": False, "compiled": False, "editor": False}}


def page(parts: Sequence[Sequence[Row]]) -> str:
    """Return the page of a leaderboard (`elbo_bench.report.leaderboard`); the same records give the same text."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    pictures, drawn = Pictures(), _Plots(_ROOM_FOR_PLOTS)
    return template.render(
        version=__version__,
        parts=[_part(number, rows, pictures, drawn) for number, rows in enumerate(parts, 1)],
        configurations=sum(map(len, parts)),
        runs=sum(len(row.run_ids) for rows in parts for row in rows),
        columns=with_content([row for rows in parts for row in rows]),
        vega=Markup(_in_script(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_VEGA_LITE))),  # noqa: S704
        tables=Markup(_table_library()),  # noqa: S704
    )


def _table_library() -> str:
    """Return the script of DataTables, without the text for notebooks that follows it."""
    html = generate_init_offline_itables_html(itables.options.dt_bundle)
    return html[: html.rindex("</script>") + len("</script>")]


def _part(number: int, rows: Sequence[Row], pictures: Pictures, drawn: "_Plots") -> dict[str, Any]:
    """Return the values of the template for one data contract."""
    shown = Shown.of(rows)
    heading, columns = split_columns(rows)
    return {
        "anchor": f"data-{number}",
        "name": rows[0].data,
        "title": heading,
        "size": len(rows),
        "table": _table(f"table-{number}", rows, columns),
        "notes": footnotes(rows),
        "plots": drawn.of(number, shown),
        "fewer": len(rows) > MOST and MOST,
        "sheets": pictures.of(shown),
    }


def _table(name: str, rows: Sequence[Row], columns: Sequence[Column]) -> Markup:
    """Return a table that is complete without a script, and sortable and searchable with a script."""
    long = len(rows) > _LENGTHS[0]
    features: dict[str, Any] = {
        "classes": ["display", "compact", "nowrap"],
        "style": {"table-layout": "auto", "width": "100%", "margin": "0"},
        "order": [],
        "paging": long,
        "pageLength": _LENGTHS[0],
        "lengthMenu": [_LENGTHS, [*map(str, _LENGTHS[:-1]), "all"]],
        "autoWidth": False,
        "scrollX": True,
        "deferRender": True,
        "layout": {
            "topStart": "pageLength" if long else None,
            "topEnd": "search",
            "bottomStart": "info" if long else None,
            "bottomEnd": "paging" if long else None,
        },
    }
    script = html_table_from_template(name, "", connected=False, display_logo_when_loading=False, kwargs=features)  # type: ignore[arg-type]
    before, _, rest = script.partition("<table")
    after = rest.partition("</table>")[2]
    heads = Markup().join(
        Markup('<th scope="col" class="{}">{}</th>').format("text" if column.digits is None else "number", column.title)
        for column in columns
    )
    lines = Markup("\n").join(
        Markup("<tr>{}</tr>").format(Markup().join(_cell(row, column) for column in columns)) for row in rows
    )
    table = Markup('<table id="{}"><thead><tr>{}</tr></thead><tbody>\n{}\n</tbody></table>').format(name, heads, lines)
    return Markup(before) + table + Markup(after)  # noqa: S704 - the script of the library


def _cell(row: Row, column: Column) -> Markup:
    """Return a cell, which is sorted by its value rather than by its text."""
    value, text = getattr(row, column.key), cell(row, column)
    if column.key == "objective":
        runs = f"{', '.join(row.run_ids[:3])}{' ...' if len(row.run_ids) > 3 else ''}"
        return Markup('<td class="text" title="{}">{}</td>').format(runs, text)
    if column.digits is None:
        return Markup('<td class="text">{}</td>').format(text)
    order = "-1e300" if value is None else f"{value:.12g}"  # a cell without a number is sorted below all others
    return Markup('<td class="number" data-order="{}">{}</td>').format(order, text)


class _Plots:
    """Embeds the plots of one contract after the other, until the page is full."""

    def __init__(self, room: int) -> None:
        self._room = room

    def of(self, number: int, shown: Shown) -> list[dict[str, Any]]:
        """Return all plots of a contract; none if the page is full."""
        if self._room <= 0:
            return []
        made = [_embedded(f"plot-{number}-{plot.name}", plot) for plot in plots(shown)]
        self._room -= sum(len(plot["specification"]) for plot in made)
        return made if self._room > 0 else []


def _embedded(name: str, plot: Plot) -> dict[str, Any]:
    """Return the values of the template for one plot. Names in its specification cannot end the script."""
    sized = plot.chart.properties(width="container", height=plot.height)
    specification = copy.deepcopy(sized.to_dict())
    specification["config"] = _LOOK
    specification["autosize"] = {"type": "fit-x", "contains": "padding"}
    text = _in_script(json.dumps(specification, sort_keys=True, allow_nan=False))
    return {
        "name": name,
        "title": plot.title,
        "caption": plot.caption,
        "specification": Markup(text),  # noqa: S704
        "options": Markup(json.dumps(_EMBED)),  # noqa: S704
    }


def _in_script(text: str) -> str:
    r"""Return text that can be part of a script element.

    In JSON, `<` occurs in strings only and becomes `\u003c`. In a program only the text that ends a script is escaped.
    """
    if text.startswith("{"):
        for sign in "<>&\u2028\u2029":
            text = text.replace(sign, f"\\u{ord(sign):04x}")
        return text
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
