"""How the latencies of a device drift over time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from nas.core.drift import LIMIT, Drift
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BAD,
    BASELINE,
    SEARCH,
    Datum,
    Options,
    Series,
    base_options,
    legend,
    mark_line_series,
    plain_line_series,
    scatter_series,
    time_axis,
    tooltip,
    tooltip_html,
    value_axis,
)

Ratios = Sequence[tuple[datetime, float]]


def drift_chart(drift: Drift) -> Options:
    """Measured over predicted latency over time, its median in each session, and the canary's ratio."""
    readings = [(r.at, r.ratio) for r in drift.readings if r.ratio is not None]
    medians = [(s.at, s.ratio) for s in drift.sessions if s.ratio is not None]
    canary = [(s.at, s.canary) for s in drift.sessions]
    points = scatter_series(
        "drift.readings", "Architectures", _data("Measured / predicted", readings), "circle", SEARCH, size=5
    )
    points["itemStyle"]["opacity"] = 0.42
    label = {"color": BAD, "position": "insideEndTop"}
    limits: list[Datum] = [{"yAxis": level, "label": label} for level in (1 - LIMIT, 1 + LIMIT)]
    series = [
        points,
        _line("drift.median", "Their median, by session", medians, SEARCH, "solid"),
        _line("drift.canary", "Canary, by session", canary, BASELINE, "dashed"),
        mark_line_series("drift.limits", "Limits", limits),
    ]
    ratios = [1 - LIMIT, 1 + LIMIT, *(ratio for _, ratio in (*readings, *canary))]
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": time_axis(),
        "yAxis": value_axis("Measured / expected", ratios, floor=0.0, gap=44),
        "series": series,
    }


def _data(title: str, ratios: Ratios) -> list[Datum]:
    return [
        {
            "value": [at.timestamp() * 1000, ratio],
            "tip": tooltip_html(title, [(formatting.moment(at), f"{ratio:.3f}")]),
        }
        for at, ratio in ratios
    ]


def _line(series_id: str, name: str, ratios: Ratios, colour: str, line_type: str) -> Series:
    line = plain_line_series(series_id, name, [], colour, line_type)
    return line | {"silent": False, "symbol": "circle", "symbolSize": 7, "data": _data(name, ratios)}
