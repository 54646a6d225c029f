"""The Pareto chart: fronts and candidates of a search and of its random baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from nas.core.device import Status
from nas.schemas.candidates import CandidateSchema, FrontSchema
from server.dashboard import formatting
from server.dashboard.charts.axes import (
    ChartAxes,
    ChartAxis,
    ChartSettings,
    chart_axes,
    metric_kinds,
    predicted_metric,
)
from server.dashboard.charts.candidate_tooltip import candidate_datum, candidate_tooltip
from server.dashboard.charts.error_bars import latency_intervals, quality_intervals
from server.dashboard.charts.options import (
    BAD,
    BASELINE,
    INK,
    PURPLE,
    SEARCH,
    STAR,
    SURFACE,
    Datum,
    Options,
    Series,
    base_options,
    legend,
    log_axis,
    mark_line_series,
    scatter_series,
    value_axis,
    zoom,
)

_STATUS_SYMBOLS: Mapping[Status, str] = {
    "verified": "circle",
    "unverified": "rect",
    "violated": "triangle",
    "fallback": "pin",
}
_DEFAULT_SETTINGS = ChartSettings()


def pareto_chart(
    front: FrontSchema,
    candidates: Sequence[CandidateSchema],
    settings: ChartSettings = _DEFAULT_SETTINGS,
    test_images: int | None = None,
) -> Options:
    """The task's quality over a cost, or any two metrics. ``test_images``: how many an accuracy was taken over, for its
    error bars. Lines join the members that no other one beats on these very axes."""
    axes = chart_axes(front, candidates, settings)
    x, y = axes.x, axes.y
    draw = _tested_series if axes.final and not axes.custom else _cloud_series
    series = draw(front, candidates, axes)
    if axes.final and not axes.custom:
        tested = _tested(front, candidates, axes)
        series = [*_error_bars(tested, axes, test_images), *series]
    series.append(_reference_series(front.references, x.metric, y.metric))
    series.append(mark_line_series("bound", "Bound", [*_bound_marks(x, "xAxis"), *_bound_marks(y, "yAxis")]))
    series.append(_limit_series(settings.limit, x.unit))
    framed = [
        s for s in series if not settings.focus or any(part in s["id"] for part in (".front", ".measured", "reference"))
    ]
    points = [datum["value"] for s in framed for datum in s["data"]]
    ends_x = [e for s in framed if s["id"].endswith(".intervals") for d in s["data"] for e in d["value"][2:]]
    ends_y = [e for s in framed if s["id"].endswith(".spreads") for d in s["data"] for e in d["value"][2:]]
    x_values = [*(p[0] for p in points), *ends_x, *_present(x.bound), *_present(settings.limit)]
    y_values = [*(p[1] for p in points), *ends_y, *_present(y.bound)]
    ceiling = 100.0 if y.goal == "max" and y.unit == "%" else math.inf
    kinds = metric_kinds((*candidates, *front.members, *front.baseline, *front.references))
    return {
        **base_options(),
        **zoom(),
        "legend": legend(series),
        "tooltip": candidate_tooltip(kinds, x.metric, y.metric),
        "xAxis": log_axis(x.title, x_values) if settings.log_x else value_axis(x.title, x_values, floor=0.0),
        "yAxis": log_axis(y.title, y_values, gap=44)
        if settings.log_y
        else value_axis(y.title, y_values, floor=0.0, ceiling=ceiling, gap=44),
        "series": series,
    }


def envelope(members: Iterable[CandidateSchema], x: ChartAxis, y: ChartAxis) -> list[CandidateSchema]:
    """The members that no other one beats on these two axes, by ``x``."""
    sign_x, sign_y = (1.0 if axis.goal == "min" else -1.0 for axis in (x, y))
    placed = [c for c in members if x.metric in c.metrics and y.metric in c.metrics]
    placed.sort(key=lambda c: (sign_x * c.metrics[x.metric].value, sign_y * c.metrics[y.metric].value))
    best, line = math.inf, []
    for candidate in placed:
        loss = sign_y * candidate.metrics[y.metric].value
        if loss < best:
            best = loss
            line.append(candidate)
    return sorted(line, key=lambda c: c.metrics[x.metric].value)


def _cloud_series(front: FrontSchema, candidates: Sequence[CandidateSchema], axes: ChartAxes) -> list[Series]:
    """Clouds of candidates and the fronts through them."""
    x, y = axes.x, axes.y
    clouds = {o: [c for c in candidates if c.origin == o] for o in ("search", "baseline")}
    if front.final:
        fronts = {o: [c for c in clouds[o] if c.on_front] for o in clouds}
    else:
        fronts = {"search": front.members, "baseline": front.baseline}
    joined = not front.final and not axes.custom and len(front.objectives) == 2
    return [
        _candidates("baseline.predicted.candidates", "Random", clouds["baseline"], x, y, "diamond", faint=True),
        _candidates("search.predicted.candidates", "Search", clouds["search"], x, y, "circle", faint=True),
        _front_line("baseline.predicted.front", "Random, front", fronts["baseline"], axes, joined, "diamond"),
        _front_line("search.predicted.front", "Search, front", fronts["search"], axes, joined, "circle"),
    ]


def _tested(front: FrontSchema, candidates: Sequence[CandidateSchema], axes: ChartAxes) -> list[CandidateSchema]:
    """Candidates that were tested, and measured where the device can be measured."""
    by_key = {(c.origin, c.arch): c for c in (*candidates, *front.members, *front.baseline)}
    needed = {axes.x.metric, axes.y.metric, front.quality.metric}
    return [c for c in by_key.values() if needed <= c.metrics.keys() and c.origin != "reference"]


def _tested_series(front: FrontSchema, candidates: Sequence[CandidateSchema], axes: ChartAxes) -> list[Series]:
    """Tested candidates by status, their fronts, and faintly where the search had predicted its own to be."""
    x, y = axes.x, axes.y
    tested = _tested(front, candidates, axes)
    search = [c for c in tested if c.origin == "search"]
    baseline = [c for c in tested if c.origin == "baseline"]
    joined = len(front.objectives) == 2
    predicted_x, predicted_y = (
        ChartAxis(predicted_metric(axis.metric), axis.kind, axis.goal, axis.unit) for axis in (x, y)
    )
    series = [
        _candidates(
            "search.predicted.positions", "As predicted", search, predicted_x, predicted_y, "circle", hollow=True
        ),
        _front_line("baseline.measured.front", "Random, front", front.baseline, axes, joined, "none"),
        _front_line("search.measured.front", "Search, front", front.members, axes, joined, "none"),
    ]
    for origin, members in (("baseline", baseline), ("search", search)):
        title, size = ("Search", 11) if origin == "search" else ("Random", 10)
        for status, symbol in _STATUS_SYMBOLS.items():
            series.append(
                _candidates(
                    f"{origin}.measured.{status}",
                    f"{title}, {status}",
                    [c for c in members if c.status == status],
                    x,
                    y,
                    symbol if origin == "search" or status == "violated" else "diamond",
                    BAD if status == "violated" else "",
                    size=size,
                    hollow=status in ("unverified", "fallback"),
                )
            )
    return series


def _error_bars(tested: Sequence[CandidateSchema], axes: ChartAxes, test_images: int | None) -> list[Series]:
    """The 95 % intervals of measured latencies and of accuracies on test images, below all points."""
    bars = []
    for origin, title in (("baseline", "Random"), ("search", "Search")):
        members = [c for c in tested if c.origin == origin]
        colour = _origin_colour(origin)
        bars.append(latency_intervals(f"{origin}.measured.intervals", title, members, axes, colour))
        bars.append(quality_intervals(f"{origin}.measured.spreads", title, members, axes, colour, test_images))
    return bars


def _reference_series(references: Sequence[CandidateSchema], xm: str, ym: str) -> Series:
    """Networks that the front is compared with, as stars with their names beside them."""
    plotted = [c for c in references if xm in c.metrics and ym in c.metrics]
    data = [candidate_datum(c, xm, ym) | {"label": {"formatter": c.name or c.arch}} for c in plotted]
    series = scatter_series("reference", "References", data, STAR, PURPLE, size=17)
    return series | {"label": {"show": True, "position": "right", "color": INK, "fontSize": 11}, "z": 5}


def _candidates(
    series_id: str,
    name: str,
    candidates: Iterable[CandidateSchema],
    x: ChartAxis,
    y: ChartAxis,
    symbol: str,
    colour: str = "",
    *,
    size: int = 8,
    faint: bool = False,
    hollow: bool = False,
) -> Series:
    """Candidates as points, those on the front larger. ``colour``: that of the origin if empty."""
    colour = colour or _origin_colour(series_id)
    placed = [c for c in candidates if x.metric in c.metrics and y.metric in c.metrics]
    data = [candidate_datum(c, x.metric, y.metric) for c in placed]
    if ".measured." in series_id:
        data = [d if c.on_front else d | {"symbolSize": 0.65 * size} for c, d in zip(placed, data, strict=True)]
    series = scatter_series(series_id, name, data, symbol, colour, size=5 if faint else size)
    if faint:
        series["itemStyle"]["opacity"] = 0.42
    elif hollow:
        opacity = 0.55 if ".predicted." in series_id else 1.0
        series["itemStyle"] = {"color": SURFACE, "borderColor": colour, "borderWidth": 1.4, "opacity": opacity}
    return series


def _front_line(
    series_id: str, name: str, members: Sequence[CandidateSchema], axes: ChartAxes, joined: bool, symbol: str
) -> Series:
    """What a front reaches: a step function through the members that no other one beats on these axes. With symbols,
    and where the axes are other metrics, all members are points of it."""
    xm, ym = axes.x.metric, axes.y.metric
    placed = envelope(members, axes.x, axes.y) if joined else members
    data = [candidate_datum(c, xm, ym) for c in placed if {xm, ym} <= c.metrics.keys()]
    data.sort(key=lambda d: d["value"])
    colour = _origin_colour(series_id)
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "step": "end",
        "symbol": symbol,
        "symbolSize": 9,
        "showAllSymbol": True,
        "lineStyle": {
            "color": colour,
            "width": 2 if joined else 0,
            "type": "dashed" if series_id.startswith("baseline") else "solid",
        },
        "itemStyle": {"color": colour, "borderColor": SURFACE, "borderWidth": 0 if symbol == "none" else 1},
        "emphasis": {"scale": 1.4, "lineStyle": {"width": 2 if joined else 0, "color": colour}},
        "data": data if joined or symbol != "none" else [],
        "animation": False,
        # A line without symbols lies under the points and leaves the pointer to them.
        "silent": symbol == "none",
        "z": 1 if symbol == "none" else 4,
    }


def _origin_colour(series_id: str) -> str:
    return SEARCH if series_id.startswith("search") else BASELINE


def _bound_marks(axis: ChartAxis, key: str) -> list[Datum]:
    if axis.bound is None:
        return []
    text = f"bound {axis.bound:g} {axis.unit}".strip()
    return [{key: axis.bound, "label": {"formatter": text, "position": "end", "color": BAD}}]


def _limit_series(limit: float | None, unit: str) -> Series:
    """The bound that the reader tries, as a line of its own; always there, so that the chart is merged and keeps its
    zoom."""
    marks = []
    if limit is not None:
        text = f"tried: {formatting.significant(limit)} {unit}".strip()
        marks = [{"xAxis": limit, "label": {"formatter": text, "position": "insideEndTop", "color": PURPLE}}]
    series = mark_line_series("limit", "Tried bound", marks)
    series["markLine"]["lineStyle"] = {"color": PURPLE, "type": "solid", "width": 2}
    return series


def _present(value: float | None) -> list[float]:
    return [] if value is None else [value]
