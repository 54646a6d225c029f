"""Parallel coordinates: every candidate as a line over its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema
from server.dashboard.charts.options import (
    BASELINE,
    FAINT,
    GRID,
    INK,
    SEARCH,
    SHORT_NUMBER,
    SURFACE,
    Options,
    base_options,
)

MOST_AXES, MOST_LINES = 8, 500
_LEFT_OUT = ("val_loss", "val_images", "trained_deviation")


def parallel_metrics(candidates: Sequence[CandidateSchema]) -> list[str]:
    """The metrics that most candidates have, in the order of ``METRICS``."""
    counts = {name: sum(name in c.metrics for c in candidates) for name in METRICS if name not in _LEFT_OUT}
    return [name for name, n in counts.items() if 2 * n >= len(candidates) > 0][:MOST_AXES]


def parallel_chart(candidates: Sequence[CandidateSchema], metrics: Sequence[str]) -> Options:
    """The best ``MOST_LINES`` candidates that have all ``metrics``; lines of front members are strong, others faint. A
    range can be brushed on each axis."""
    complete = [c for c in candidates if all(name in c.metrics for name in metrics)][:MOST_LINES]
    groups = [
        ("parallel.baseline", "Random", [c for c in complete if c.origin == "baseline"], BASELINE, 0.25),
        ("parallel.search", "Search", [c for c in complete if c.origin == "search" and not c.on_front], SEARCH, 0.3),
        ("parallel.front", "Front", [c for c in complete if c.origin == "search" and c.on_front], INK, 0.95),
    ]
    return {
        **base_options(),
        "legend": {"data": [name for _, name, members, *_ in groups if members], "textStyle": {"color": INK}, "top": 0},
        "parallel": {"left": 48, "right": 90, "top": 64, "bottom": 24},
        "parallelAxis": [
            {
                "dim": i,
                "name": METRICS[name].label + (f" ({METRICS[name].unit})" if METRICS[name].unit else ""),
                "nameTextStyle": {"color": FAINT, "fontSize": 11, "width": 96, "overflow": "break"},
                "scale": True,
                "min": "dataMin",
                "max": "dataMax",
                "nameLocation": "start" if METRICS[name].goal == "min" else "end",
                "inverse": METRICS[name].goal == "min",  # the better end is up
                "axisLabel": {"color": INK, "backgroundColor": SURFACE, "padding": [1, 3], ":formatter": SHORT_NUMBER},
                "axisLine": {"lineStyle": {"color": GRID}},
            }
            for i, name in enumerate(metrics)
        ],
        "series": [
            {
                "id": series_id,
                "name": name,
                "type": "parallel",
                "lineStyle": {
                    "color": colour,
                    "width": 1.6 if series_id == "parallel.front" else 1,
                    "opacity": opacity,
                },
                "itemStyle": {"color": colour},
                "data": [{"value": [c.metrics[m].value for m in metrics], "name": c.arch} for c in members],
                "progressive": 200,
                "animation": False,
            }
            for series_id, name, members, colour, opacity in groups
        ],
    }
