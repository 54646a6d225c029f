"""Options that the charts share: colours, axes, legend, tooltips and series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

Options = dict[str, Any]  # what ECharts reads; built here and in the chart modules, never read by other modules
Series = Options
Datum = Options  # one point of a series

SEARCH, BASELINE, BAD, PURPLE, INK, FAINT, GRID, SURFACE = (
    f"var(--{name})" for name in ("c-search", "c-random", "c-bad", "c-purple", "ink", "ink-2", "grid", "surface")
)
RUN_COLOURS = (SEARCH, BASELINE, *(f"var(--c-{name})" for name in ("purple", "good", "sky", "sand")))
SHORT_NUMBER = (
    "v => { const [size, unit] = [[1e9, ' G'], [1e6, ' M'], [1e3, ' k']].find(s => Math.abs(v) >= s[0]) ?? [1, '']; "
    "return +(v / size).toPrecision(3) + unit; }"
)
STAR = "path://M50 5l13 31 34 3-26 22 8 33-29-18-29 18 8-33-26-22 34-3z"
_PHONE_WIDTH = 420  # pixels of a chart
# A legend's icon for a line without symbols.
_LINE_ICONS = {
    "solid": "path://M0 4h18v2H0z",
    "dashed": "path://M0 4h5v2H0z M7 4h5v2H7z M14 4h4v2H14z",
    "dotted": "path://M0 4h2v2H0z M4 4h2v2H4z M8 4h2v2H8z M12 4h2v2H12z M16 4h2v2H16z",
}


def base_options() -> Options:
    """Margins and fonts of a chart."""
    return {
        "grid": {"left": 62, "right": 22, "top": 46, "bottom": 48},
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif", "color": INK},
        "animation": False,
    }


def legend(series: Sequence[Series]) -> Options:
    """Names of the series that have data; error bars belong to the series of their points."""
    return {
        "data": [
            {"name": s["name"]} | ({"icon": _LINE_ICONS[s["lineStyle"]["type"]]} if s["symbol"] == "none" else {})
            for s in sorted(series, key=lambda s: not s["id"].startswith("search"))
            if s["data"] and s["type"] != "custom"
        ],
        "top": 0,
        "left": 0,
        "type": "scroll",
        "itemWidth": 18,
        "itemHeight": 10,
        "textStyle": {"color": INK},
        "inactiveColor": FAINT,
        "pageIconColor": INK,
        "pageTextStyle": {"color": FAINT},
    }


def tooltip(formatter: str = "p => p.data && p.data.tip ? p.data.tip : ''") -> Options:
    """Shows the ``tip`` of the datum under the pointer, or what another function in JavaScript makes of it."""
    return {
        "trigger": "item",
        "confine": True,
        ":formatter": formatter,
        "backgroundColor": SURFACE,
        "borderColor": GRID,
        "textStyle": {"color": INK, "fontSize": 12},
        "extraCssText": "box-shadow: 0 6px 24px rgb(0 0 0 / .18); border-radius: 8px;",
    }


def tooltip_html(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """The HTML of a tooltip. Titles and values are escaped; labels are HTML of the caller's."""
    cells = "".join(f"<tr><td>{label}</td><td>{escape(value)}</td></tr>" for label, value in rows)
    return f'<div class="tip"><b>{escape(title)}</b><table>{cells}</table></div>'


def value_axis(
    title: str, values: Iterable[float], *, floor: float = -math.inf, ceiling: float = math.inf, gap: int = 28
) -> Options:
    """A value axis that holds all ``values`` between round ends, never beyond ``floor`` and ``ceiling``."""
    low, high, step = nice_range(list(values), floor, ceiling)
    return {
        "type": "value",
        "name": title,
        "nameLocation": "middle",
        "nameGap": gap,
        "nameTextStyle": {"color": FAINT, "fontSize": 12},
        "min": low,
        "max": high,
        "interval": step,
        "axisLabel": {"color": FAINT, ":formatter": "v => +v.toPrecision(6)"},
        "axisLine": {"show": True, "lineStyle": {"color": GRID}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": GRID}},
    }


def log_axis(title: str, values: Iterable[float], *, gap: int = 28) -> Options:
    """A logarithmic axis that holds all positive ``values``; others cannot be drawn on it."""
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    axis = value_axis(title, [], gap=gap) | {"type": "log", "min": low / 1.08, "max": high * 1.08}
    axis.pop("interval")
    axis["axisLabel"] = {"color": FAINT, ":formatter": "v => +v.toPrecision(3)"}
    return axis


def zoom() -> Options:
    """A box to draw around what is to be enlarged, with buttons to go back, and Ctrl with the wheel. On a phone, where
    two fingers do it, the buttons leave their place to the legend."""
    wheel = {"type": "inside", "filterMode": "none", "zoomOnMouseWheel": "ctrl", "moveOnMouseMove": False}
    titles = {"zoom": "Zoom: draw a box", "back": "Zoom out"}
    return {
        "media": [
            {"query": {"maxWidth": _PHONE_WIDTH}, "option": {"toolbox": {"show": False}, "legend": {"right": 0}}},
            {"option": {"toolbox": {"show": True}, "legend": {"right": 126}}},
        ],
        "dataZoom": [{**wheel, "xAxisIndex": 0}, {**wheel, "yAxisIndex": 0}],
        "toolbox": {
            "right": 8,
            "top": -4,
            "itemSize": 13,
            "iconStyle": {"borderColor": FAINT},
            "feature": {
                "dataZoom": {"filterMode": "none", "title": titles},
                "restore": {"title": "Whole chart"},
                "saveAsImage": {"title": "Save as picture", "type": "svg"},
            },
        },
    }


def time_axis() -> Options:
    """An axis of points in time, in milliseconds since 1970."""
    lines = {k: v for k, v in value_axis("", []).items() if k in ("axisLine", "axisTick", "splitLine")}
    return {"type": "time", "axisLabel": {"color": FAINT, "hideOverlap": True}, **lines}


def nice_range(values: Sequence[float], floor: float, ceiling: float) -> tuple[float, float, float]:
    """Round ends around ``values`` and the step between their few ticks: 1, 2 or 5 times a power of ten."""
    if not values:
        values = (max(floor, 0.0), min(ceiling, 1.0))
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 0.5
    low, high = max(low - pad, floor), min(high + pad, ceiling)
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return max(math.floor(low / step) * step, floor), min(math.ceil(high / step) * step, ceiling), step


def scatter_series(series_id: str, name: str, data: list[Datum], symbol: str, colour: str, *, size: int) -> Series:
    """Points."""
    return {
        "id": series_id,
        "name": name,
        "type": "scatter",
        "symbol": symbol,
        "symbolSize": size,
        "itemStyle": {"color": colour, "borderColor": SURFACE, "borderWidth": 1 if size > 6 else 0, "opacity": 1.0},
        "emphasis": {"scale": 1.5, "itemStyle": {"opacity": 1.0, "color": "inherit"}},
        "data": data,
        "animation": False,
    }


def plain_line_series(
    series_id: str, name: str, points: Sequence[tuple[float, float]], colour: str, line_type: str
) -> Series:
    """A line without symbols, which the pointer ignores."""
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "symbol": "none",
        "silent": True,
        "lineStyle": {"color": colour, "width": 1.5, "type": line_type},
        "itemStyle": {"color": colour},
        "data": [{"value": list(point)} for point in points],
        "animation": False,
    }


def mark_line_series(series_id: str, name: str, marks: list[Datum]) -> Series:
    """Dashed lines across the chart, such as bounds."""
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "data": [],
        "silent": True,
        "itemStyle": {"color": BAD},
        "markLine": {
            "symbol": "none",
            "silent": True,
            "animation": False,
            "lineStyle": {"color": BAD, "type": [7, 4], "width": 1.5},
            "data": marks,
        },
    }


def cell_label_series(series_id: str, cells: Iterable[tuple[int, int, float]]) -> Series:
    """The numbers in the cells (column, row, value) of a heat map. Labels of the cells themselves would fade with
    them."""
    return {
        "id": series_id,
        "type": "scatter",
        "symbolSize": 1,
        "silent": True,
        "itemStyle": {"color": "transparent"},
        "label": {
            "show": True,
            "color": INK,
            "fontSize": 11,
            "position": "inside",
            "textBorderColor": SURFACE,  # legible on dark cells and on light ones
            "textBorderWidth": 2,
        },
        "data": [{"value": [x, y], "label": {"formatter": f"{value:.2f}"}} for x, y, value in cells],
    }
