"""Hypervolume of search and random baseline over evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.events import HypervolumeAt
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BASELINE,
    SEARCH,
    Options,
    Series,
    base_options,
    legend,
    tooltip,
    tooltip_html,
    value_axis,
)


def hypervolume_chart(history: Sequence[HypervolumeAt]) -> Options:
    """Hypervolume of search and random baseline after equally many evaluations each."""
    search = [(h.evaluations, h.search) for h in history]
    baseline = [(h.evaluations, h.baseline) for h in history]
    series = [
        _curve("search.estimated.hypervolume", "Search", search, SEARCH, "circle", "solid"),
        _curve("baseline.estimated.hypervolume", "Random", baseline, BASELINE, "diamond", "dashed"),
    ]
    volumes = [volume for _, volume in (*search, *baseline)]
    y_axis = value_axis("Hypervolume (estimated)", volumes, floor=0.0, ceiling=1.0, gap=44)
    if y_axis["min"] > 0:
        y_axis["name"] += f", axis cut below {y_axis['min']:g}"
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis("Evaluated candidates, each", [0.0, *(n for n, _ in search)], floor=0.0),
        "yAxis": y_axis,
        "series": series,
    }


def _curve(
    series_id: str, name: str, points: list[tuple[int, float]], colour: str, symbol: str, line_type: str
) -> Series:
    data = [
        {
            "value": [evaluations, volume],
            "tip": tooltip_html(
                name, [("Evaluations", formatting.count(evaluations)), ("Hypervolume", formatting.share(volume))]
            ),
        }
        for evaluations, volume in points
    ]
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "symbol": symbol,
        "symbolSize": 7,
        "lineStyle": {"color": colour, "width": 2, "type": line_type},
        "itemStyle": {"color": colour},
        "emphasis": {"lineStyle": {"width": 2, "color": colour}, "itemStyle": {"color": colour}},
        "data": data,
        "animation": False,
    }
