"""Fronts and hypervolumes of several searches in one chart."""

from __future__ import annotations

from collections.abc import Sequence

from nas.schemas.candidates import CandidateSchema, FrontSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.charts.axes import ChartSettings, chart_axes
from server.dashboard.charts.options import (
    RUN_COLOURS,
    Options,
    Series,
    base_options,
    legend,
    tooltip,
    tooltip_html,
    value_axis,
    zoom,
)
from server.dashboard.charts.pareto import envelope

_SYMBOLS = ("circle", "diamond", "triangle", "rect", "pin", "arrow")
_LINES = ("solid", "dashed", "dotted")


def overlaid_fronts(searches: Sequence[SearchSchema], fronts: Sequence[FrontSchema]) -> Options:
    """The members of each front over the first cost that all fronts have (``common_metrics`` says whether there is
    one), joined where no other member of it beats them on these axes. Searches of several precisions have theirs beside
    their names."""
    shared = next(o.objective for o in fronts[0].costs if all(o.metric in {c.metric for c in f.costs} for f in fronts))
    axes = chart_axes(fronts[0], fronts[0].members, ChartSettings(x_objective=shared))
    x, y = axes.x, axes.y
    series = [
        _front(i, name, s.id, envelope(f.members, x, y), x.metric, y.metric)
        for i, (name, s, f) in enumerate(zip(names_with_precision(searches), searches, fronts, strict=True))
    ]
    points = [datum["value"] for s in series for datum in s["data"]]
    ceiling = 100.0 if y.goal == "max" and y.unit == "%" else float("inf")
    return {
        **base_options(),
        **zoom(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis(x.title, [p[0] for p in points], floor=0.0),
        "yAxis": value_axis(y.title, [p[1] for p in points], floor=0.0, ceiling=ceiling, gap=44),
        "series": series,
    }


def overlaid_hypervolumes(searches: Sequence[SearchSchema]) -> Options:
    """The hypervolume of each search over its evaluations, each normalised by its own reference."""
    series = [
        _line(
            f"hypervolume.{i}",
            name,
            i,
            [
                {
                    "value": [h.evaluations, h.search],
                    "tip": tooltip_html(
                        name,
                        [("Evaluations", formatting.count(h.evaluations)), ("Hypervolume", formatting.share(h.search))],
                    ),
                }
                for h in search.hypervolume_history
                if h.device is None or h.device == search.spec.device
            ],
        )
        for i, (name, search) in enumerate(zip(names_with_precision(searches), searches, strict=True))
    ]
    points = [datum["value"] for s in series for datum in s["data"]]
    y_axis = value_axis("Hypervolume (estimated)", [p[1] for p in points], floor=0.0, ceiling=1.0, gap=44)
    if y_axis["min"] > 0:
        y_axis["name"] += f", axis cut below {y_axis['min']:g}"
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis("Evaluated candidates, each", [0.0, *(p[0] for p in points)], floor=0.0),
        "yAxis": y_axis,
        "series": series,
    }


def names_with_precision(searches: Sequence[SearchSchema]) -> list[str]:
    """The names of searches, with the precision of each where they have several."""
    if len({search.spec.precision for search in searches}) < 2:
        return [search.name for search in searches]
    return [f"{search.name} ({search.spec.precision})" for search in searches]


def _front(number: int, name: str, search_id: str, members: Sequence[CandidateSchema], xm: str, ym: str) -> Series:
    data = [
        {
            "value": [c.metrics[xm].value, c.metrics[ym].value],
            "arch": c.arch,
            "search": search_id,
            "tip": tooltip_html(
                f"{name}: {c.arch} · {c.status}",
                [(formatting.label(metric), formatting.metric(c.metrics, metric)) for metric in (ym, xm)],
            ),
        }
        for c in members
    ]
    return _line(f"front.{number}", name, number, data) | {"step": "end"}


def _line(series_id: str, name: str, number: int, data: list[Options]) -> Series:
    colour = RUN_COLOURS[number % len(RUN_COLOURS)]
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "symbol": _SYMBOLS[number % len(_SYMBOLS)],
        "symbolSize": 9,
        "showAllSymbol": True,
        "lineStyle": {"color": colour, "width": 2, "type": _LINES[number % len(_LINES)]},
        "itemStyle": {"color": colour},
        "emphasis": {"lineStyle": {"width": 2, "color": colour}, "itemStyle": {"color": colour}},
        "data": data,
        "animation": False,
    }
