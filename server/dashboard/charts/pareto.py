"""The Pareto chart: fronts and candidates of a search and of its random baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

from nas.core.metrics import METRICS
from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema, FrontSchema, ObjectiveSchema
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BAD,
    BASELINE,
    INK,
    PURPLE,
    SEARCH,
    SURFACE,
    Datum,
    Options,
    Series,
    base_options,
    legend,
    mark_line_series,
    scatter_series,
    tooltip,
    tooltip_html,
    value_axis,
)

Evidence = Literal["predicted", "measured", "validation"]

_ERROR_BAR = """(params, api) => {
  const [low, high] = [2, 3].map(i => api.coord([api.value(i), api.value(1)]));
  const line = (x1, y1, x2, y2) => ({type: 'line', shape: {x1, y1, x2, y2}, style: {stroke: 'COLOUR', lineWidth: 1.2}});
  const cap = x => line(x, low[1] - 4, x, low[1] + 4);
  return {type: 'group', children: [line(low[0], low[1], high[0], high[1]), cap(low[0]), cap(high[0])]};
}"""

_STATUS_SYMBOLS = {"verified": "circle", "unverified": "rect", "violated": "triangle"}
_PREDICTED = {"measured_ms": "predicted_ms", "measured_share": "predicted_share"}


def _predicted(metric: str) -> str:
    """The metric of an objective before anything is measured."""
    estimated = {task.tested: task.estimated for task in installed_tasks().values()}
    return _PREDICTED.get(metric) or estimated.get(metric, metric)


def pareto_chart(
    front: FrontSchema,
    candidates: Sequence[CandidateSchema],
    x_objective: str = "",
    evidence: Evidence = "measured",
    focus: bool = False,
) -> Options:
    """The task's quality over ``x_objective`` (default: the first cost).

    A front that is not ``final`` is drawn with predicted values whatever ``evidence`` says; ``validation`` shows the
    quality that decides membership beside measured costs, so that no member is dominated. ``focus`` frames the fronts
    rather than every candidate. Only fronts of two objectives are joined by a line: of more, a drawing is a projection.
    """
    y_axis = front.quality
    x_axis = next((o for o in front.costs if o.objective == x_objective), front.costs[0])
    measured = front.final and evidence != "predicted"
    x_metric, y_metric = (x_axis.metric, y_axis.metric)
    if measured and evidence == "validation":
        y_metric = y_axis.decided_by or y_metric
    if not measured:
        x_metric, y_metric = _predicted(x_metric), _predicted(y_metric)
        if not any(y_metric in c.metrics for c in candidates):
            y_metric = "proxy_score"  # a search without a supernet has no other score until it trains architectures
    if y_metric == "proxy_score":  # a bound on the quality does not bound a score
        y_axis = y_axis.model_copy(update={"bound": None})
    joined = len(front.objectives) == 2
    draw = _measured_series if measured else _predicted_series
    series = draw(front, candidates, x_metric, y_metric, joined)
    series.append(_reference_series(front.references, x_metric, y_metric))
    bounds = [_bound_mark(x_axis, "xAxis"), _bound_mark(y_axis, "yAxis")]
    series.append(mark_line_series("bound", "Bound", [b for b in bounds if b is not None]))
    framed = [s for s in series if not focus or any(part in s["id"] for part in (".front", ".measured", "reference"))]
    points = [datum["value"] for s in framed for datum in s["data"]]
    intervals = [end for s in framed if s["type"] == "custom" for datum in s["data"] for end in datum["value"][2:]]
    x_values, y_values = [p[0] for p in points] + intervals + _bounds(x_axis), [p[1] for p in points] + _bounds(y_axis)
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis(_axis_title(x_axis, x_metric), x_values, floor=0.0),
        "yAxis": value_axis(
            _axis_title(y_axis, y_metric),
            y_values,
            floor=0.0,
            ceiling=100.0 if y_axis.goal == "max" else math.inf,
            gap=44,
        ),
        "series": series,
    }


def _predicted_series(
    front: FrontSchema, candidates: Sequence[CandidateSchema], xm: str, ym: str, joined: bool
) -> list[Series]:
    """Clouds of candidates and the fronts through them; nothing here was measured."""
    clouds = {o: [c for c in candidates if c.origin == o] for o in ("search", "baseline")}
    if front.final:
        fronts = {o: [c for c in clouds[o] if c.on_front] for o in clouds}
    else:
        fronts = {"search": front.members, "baseline": front.baseline}
    line = joined and not front.final
    return [
        _candidates("baseline.predicted.candidates", "Random", clouds["baseline"], xm, ym, "diamond", faint=True),
        _candidates("search.predicted.candidates", "Search", clouds["search"], xm, ym, "circle", faint=True),
        _front_line("baseline.predicted.front", "Random, front", fronts["baseline"], xm, ym, line, "diamond"),
        _front_line("search.predicted.front", "Search, front", fronts["search"], xm, ym, line, "circle"),
    ]


def _measured_series(
    front: FrontSchema, candidates: Sequence[CandidateSchema], xm: str, ym: str, joined: bool
) -> list[Series]:
    """Measured candidates by status, the measured fronts, and faintly the predicted positions of the search's."""
    by_key = {(c.origin, c.arch): c for c in (*candidates, *front.members, *front.baseline)}
    measured = [c for c in by_key.values() if xm in c.metrics and ym in c.metrics and c.measurement is not None]
    search = [c for c in measured if c.origin == "search"]
    baseline = [c for c in measured if c.origin == "baseline"]
    predicted_xm, predicted_ym = _predicted(xm), _predicted(ym)
    series = [
        _candidates(
            "search.predicted.positions", "As predicted", search, predicted_xm, predicted_ym, "circle", hollow=True
        ),
        _front_line("baseline.measured.front", "Random, front", front.baseline, xm, ym, joined, "none"),
        _front_line("search.measured.front", "Search, front", front.members, xm, ym, joined, "none"),
    ]
    for origin, members in (("baseline", baseline), ("search", search)):
        title, size = ("Search", 11) if origin == "search" else ("Random", 10)
        series.append(_interval_series(f"{origin}.measured.intervals", title, members, xm, ym))
        for status, symbol in _STATUS_SYMBOLS.items():
            series.append(
                _candidates(
                    f"{origin}.measured.{status}",
                    f"{title}, {status}",
                    [c for c in members if c.status == status],
                    xm,
                    ym,
                    symbol if origin == "search" or status == "violated" else "diamond",
                    BAD if status == "violated" else "",
                    size=size,
                    hollow=status == "unverified",
                )
            )
    return series


def _reference_series(references: Sequence[CandidateSchema], xm: str, ym: str) -> Series:
    """Networks that the front is compared with, with their names beside them."""
    plotted = [c for c in references if xm in c.metrics and ym in c.metrics]
    data = [_datum(c, xm, ym) | {"label": {"formatter": c.name or c.arch}} for c in plotted]
    series = scatter_series("reference", "References", data, "diamond", PURPLE, size=12)
    return series | {"label": {"show": True, "position": "right", "color": INK, "fontSize": 11}, "z": 5}


def _candidates(
    series_id: str,
    name: str,
    candidates: Iterable[CandidateSchema],
    xm: str,
    ym: str,
    symbol: str,
    colour: str = "",
    *,
    size: int = 8,
    faint: bool = False,
    hollow: bool = False,
) -> Series:
    """Candidates as points, those on the front larger. ``colour``: that of the origin if empty."""
    colour = colour or _origin_colour(series_id)
    data = [_datum(c, xm, ym) for c in candidates if xm in c.metrics and ym in c.metrics]
    if ".measured." in series_id:
        data = [d if d["front"] else {**d, "symbolSize": 0.65 * size} for d in data]
    series = scatter_series(series_id, name, data, symbol, colour, size=5 if faint else size)
    if faint:
        series["itemStyle"]["opacity"] = 0.42
    elif hollow:
        opacity = 0.55 if ".predicted." in series_id else 1.0
        series["itemStyle"] = {"color": SURFACE, "borderColor": colour, "borderWidth": 1.4, "opacity": opacity}
    return series


def _interval_series(series_id: str, name: str, candidates: Iterable[CandidateSchema], xm: str, ym: str) -> Series:
    """Horizontal error bars: the 95 % interval of each measured latency in ms. A datum's value is median, accuracy,
    lower and upper end. There are none over other metrics, such as a share of a bound."""
    data = []
    for candidate in candidates if xm == "measured_ms" else ():
        measurement = candidate.measurement
        if measurement is not None and measurement.low_ms is not None and measurement.high_ms is not None:
            datum = _datum(candidate, xm, ym)
            data.append(datum | {"value": [*datum["value"], measurement.low_ms, measurement.high_ms]})
    return {
        "id": series_id,
        "name": name,
        "type": "custom",
        ":renderItem": _ERROR_BAR.replace("COLOUR", _origin_colour(series_id)),
        "encode": {"x": [0, 2, 3], "y": 1},
        "data": data,
        "animation": False,
        "silent": True,  # the pointer meets the point
        "clip": True,
        "z": 1,
    }


def _front_line(
    series_id: str, name: str, members: Sequence[CandidateSchema], xm: str, ym: str, joined: bool, symbol: str
) -> Series:
    """The members of a front. A predicted front is a step function: what is reachable within so much cost. The members
    of a measured front were selected on validation data, so their test accuracies need not rise, and are merely
    joined."""
    data = sorted((_datum(c, xm, ym) for c in members if xm in c.metrics and ym in c.metrics), key=lambda d: d["value"])
    colour = _origin_colour(series_id)
    return {
        "id": series_id,
        "name": name,
        "type": "line",
        "step": "end" if ".predicted." in series_id else False,
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


def _datum(candidate: CandidateSchema, xm: str, ym: str) -> Datum:
    metrics = candidate.metrics
    names = [n for n in dict.fromkeys((ym, xm, "upper_ms", "params", "macs", *metrics)) if n in metrics]
    rows = [
        (f"{escape(formatting.label(n))} <i>{metrics[n].kind}</i>", formatting.metric(metrics, n))
        for n in names
        if n != "val_loss"
    ]
    return {
        "value": [metrics[xm].value, metrics[ym].value],
        "arch": candidate.arch,
        "origin": candidate.origin,
        "front": candidate.on_front,
        "tip": tooltip_html(f"{candidate.arch} · {candidate.name or candidate.origin} · {candidate.status}", rows),
    }


def _bound_mark(axis: ObjectiveSchema, key: str) -> Datum | None:
    if axis.bound is None:
        return None
    text = f"bound {axis.bound:g} {axis.unit}".strip()
    return {key: axis.bound, "label": {"formatter": text, "position": "end", "color": BAD}}


def _bounds(axis: ObjectiveSchema) -> list[float]:
    return [] if axis.bound is None else [axis.bound]


def _axis_title(axis: ObjectiveSchema, metric: str) -> str:
    kind = METRICS[metric].kind if metric in METRICS and metric != axis.metric else axis.kind
    name = formatting.label(metric)
    unit = METRICS[metric].unit if metric in METRICS else axis.unit
    details = [unit] if unit else []
    if kind not in name.lower():
        details.append(kind)
    return f"{name} ({', '.join(details)})" if details else name
