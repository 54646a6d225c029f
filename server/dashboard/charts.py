"""The charts as plain data (Apache ECharts options), computed from views of the API and from nothing else.

Every series holds values of one kind of evidence and says which in its ``id``: ``search.predicted.points``,
``search.measured.verified``. Series differ by symbol and line style as well as by colour. Colours are the style sheet's
variables, so a chart follows the light or dark theme without being drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from statistics import median
from typing import Any, Literal

from nas.core.drift import LIMIT
from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema, FrontSchema, ObjectiveSchema
from nas.schemas.devices import DeviceComparisonSchema, DriftSchema, LatencyPairSchema
from nas.schemas.predictors import PredictorCardSchema
from nas.schemas.rank_correlation import GradientSimilaritySchema, RankCorrelationSchema, RankedArchSchema
from nas.schemas.searches import HypervolumeSchema
from server.dashboard import formatting
from server.dashboard.search.view_model import WHICH

Options = dict[str, Any]
Series = dict[str, Any]
Evidence = Literal["predicted", "measured"]

SEARCH, BASELINE, BAD, PURPLE, INK, FAINT, GRID, SURFACE = (
    f"var(--{name})" for name in ("c-search", "c-random", "c-bad", "c-purple", "ink", "ink-2", "grid", "surface")
)
# A legend's icon for a line without symbols.
_DASHES = {
    "solid": "path://M0 4h18v2H0z",
    "dashed": "path://M0 4h5v2H0z M7 4h5v2H7z M14 4h4v2H14z",
    "dotted": "path://M0 4h2v2H0z M4 4h2v2H4z M8 4h2v2H8z M12 4h2v2H12z M16 4h2v2H16z",
}
_SYMBOLS = {"verified": "circle", "unverified": "rect", "violated": "triangle"}
# Before anything is measured, an objective reads this metric.
_PREDICTED = {
    "test_accuracy": "val_accuracy",
    "measured_ms": "predicted_ms",
    "measured_share": "predicted_share",
}


def pareto(
    front: FrontSchema,
    candidates: Sequence[CandidateSchema],
    x: str = "",
    evidence: Evidence = "measured",
    focus: bool = False,
) -> Options:
    """Accuracy over objective ``x`` (default: the first that is not accuracy).

    A front that is not ``final`` is drawn with predicted values whatever ``evidence`` says. ``focus`` frames the fronts
    rather than every point. Only fronts of two objectives are joined by a line: of more, a drawing is a projection.
    """
    y_axis = next(o for o in front.objectives if o.objective == "accuracy")
    x_axis = next((o for o in front.objectives if o.objective == x), None) or next(
        o for o in front.objectives if o.objective != "accuracy"
    )
    measured = front.final and evidence == "measured"
    xm, ym = (x_axis.metric, y_axis.metric)
    if not measured:
        xm, ym = _PREDICTED.get(xm, xm), _PREDICTED.get(ym, ym)
        if not any(ym in p.metrics for p in candidates):
            ym = "proxy_score"  # all that a search without a supernet knows until networks are trained
    if ym == "proxy_score":  # a bound on accuracy is none on it
        y_axis = y_axis.model_copy(update={"bound": None})
    joined = len(front.objectives) == 2
    draw = _measured_series if measured else _predicted_series
    series = draw(front, candidates, xm, ym, joined)
    bounds = [_bound(x_axis, "xAxis"), _bound(y_axis, "yAxis")]
    series.append(_bounds_series([b for b in bounds if b is not None]))
    framed = [s for s in series if not focus or ".front" in s["id"] or ".measured" in s["id"]]
    cells = [d["value"] for s in framed for d in s["data"]]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": _axis(_title(x_axis, xm), [c[0] for c in cells] + _values(x_axis), floor=0.0),
        "yAxis": _axis(_title(y_axis, ym), [c[1] for c in cells] + _values(y_axis), floor=0.0, ceiling=100.0, gap=44),
        "series": series,
    }


def _predicted_series(
    front: FrontSchema, candidates: Sequence[CandidateSchema], xm: str, ym: str, joined: bool
) -> list[Series]:
    """Clouds of evaluated networks and the fronts through them; nothing here was measured."""
    clouds = {o: [p for p in candidates if p.origin == o] for o in ("search", "baseline")}
    if front.final:
        fronts = {o: [p for p in clouds[o] if p.on_front] for o in clouds}
    else:
        fronts = {"search": front.points, "baseline": front.baseline}
    line = joined and not front.final
    return [
        _points("baseline.predicted.points", "Random", clouds["baseline"], xm, ym, "diamond", BASELINE, faint=True),
        _points("search.predicted.points", "Search", clouds["search"], xm, ym, "circle", SEARCH, faint=True),
        _line("baseline.predicted.front", "Random, front", fronts["baseline"], xm, ym, BASELINE, line, "diamond"),
        _line("search.predicted.front", "Search, front", fronts["search"], xm, ym, SEARCH, line, "circle"),
    ]


def _measured_series(
    front: FrontSchema, candidates: Sequence[CandidateSchema], xm: str, ym: str, joined: bool
) -> list[Series]:
    """Measured networks by status, the measured fronts, and faint where the search had believed its own to be."""
    known = {(p.origin, p.arch): p for p in (*candidates, *front.points, *front.baseline)}
    measured = [p for p in known.values() if xm in p.metrics and ym in p.metrics and p.measurement is not None]
    mine = [p for p in measured if p.origin == "search"]
    theirs = [p for p in measured if p.origin == "baseline"]
    believed_x, believed_y = _PREDICTED.get(xm, xm), _PREDICTED.get(ym, ym)
    out = [
        _points(
            "search.predicted.positions", "As predicted", mine, believed_x, believed_y, "circle", SEARCH, hollow=True
        ),
        _line("baseline.measured.front", "Random, front", front.baseline, xm, ym, BASELINE, joined, "none"),
        _line("search.measured.front", "Search, front", front.points, xm, ym, SEARCH, joined, "none"),
    ]
    for origin, points, symbol, colour in (
        ("baseline", theirs, "diamond", BASELINE),
        ("search", mine, "", SEARCH),
    ):
        who = "Search" if origin == "search" else "Random"
        for status, mark in _SYMBOLS.items():
            shape = symbol if symbol and status != "violated" else mark
            out.append(
                _points(
                    f"{origin}.measured.{status}",
                    f"{who}, {status}",
                    [p for p in points if p.status == status],
                    xm,
                    ym,
                    shape,
                    BAD if status == "violated" else colour,
                    size=11 if origin == "search" else 10,
                    hollow=status == "unverified",
                )
            )
    return out


def hypervolume(history: Sequence[HypervolumeSchema]) -> Options:
    """Hypervolume of search and random baseline after equally many evaluations each."""
    series = [
        _curve(
            "search.estimated.hypervolume", "Search", [(h.evaluations, h.search) for h in history], SEARCH, "circle"
        ),
        _curve(
            "baseline.estimated.hypervolume",
            "Random",
            [(h.evaluations, h.baseline) for h in history],
            BASELINE,
            "diamond",
            dashed=True,
        ),
    ]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": _axis("Evaluated networks, each", [0.0] + [h.evaluations for h in history], floor=0.0),
        "yAxis": _axis(
            "Hypervolume (estimated)",
            [v for h in history for v in (h.search, h.baseline)],
            floor=0.0,
            ceiling=1.0,
            gap=44,
        ),
        "series": series,
    }


_TRACES = {
    "entropy": "Entropy of the mixture",
    "skip_share": "Share of skip connections",
    "temperature": "Temperature",
    "alpha_norm": "Norm of the logits",
    "eigenvalue": "Dominant eigenvalue",
    "latency_ms": "Expected latency (ms, predicted)",
    "multiplier": "Weight of the latency",
    "alive": "Operations left",
    "died": "Operations pruned in the epoch",
    "pressure": "Weight of the penalty",
}
_RUNS = (SEARCH, BASELINE, *(f"var(--c-{name})" for name in ("purple", "good", "sky", "sand")))


def trace_title(name: str) -> str:
    """A reading of a search, for people."""
    return _TRACES.get(name, name.replace("_", " "))


def traces(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Options]:
    """A chart of every reading over epochs, by its name, with a line for each run of ``shown.by_run``."""
    names = dict.fromkeys(n for run in runs.values() for body in run for n in body["values"])
    return {name: _trace(name, runs) for name in names if name not in (*WHICH, "epoch")}


def _trace(name: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Options:
    series: list[Series] = []
    epochs, values = [1.0], []
    for i, (which, run) in enumerate(runs.items()):
        cells = [(b["values"].get("epoch", b["step"]), b["values"][name]) for b in run if name in b["values"]]
        epochs += [x for x, _ in cells]
        values += [y for _, y in cells]
        tips = [
            {"value": [x, y], "tip": _tip(which, [("Epoch", f"{x:g}"), (trace_title(name), f"{y:.4g}")])}
            for x, y in cells
        ]
        line = _plain_line(f"trace.{name}.{which}", which, [], _RUNS[i % len(_RUNS)], "solid")
        series.append(line | {"silent": False, "symbol": "circle", "symbolSize": 4, "data": tips})
    return {
        **_frame(),
        "title": {"text": trace_title(name), "textStyle": {"fontSize": 12, "fontWeight": 500, "color": INK}},
        "grid": {"left": 52, "right": 14, "top": 34, "bottom": 40},
        "tooltip": _tooltip(),
        "xAxis": _axis("Epoch", epochs, floor=0.0),
        "yAxis": _axis("", values),
        "series": series,
    }


def mixture(body: Mapping[str, Any]) -> Options:
    """The weights of a mixture, operations by edges, as shades."""
    rows, columns, table = body["rows"], body["columns"], body["table"]
    data = [
        {
            "value": [x, y, p],
            "tip": _tip(str(rows[y]), [(str(columns[x]), f"{p:.4f}")]),
        }
        for y, row in enumerate(table)
        for x, p in enumerate(row)
    ]
    labels = {"color": FAINT, "fontSize": 11}
    return {
        **_frame(),
        "grid": {"left": 96, "right": 22, "top": 12, "bottom": 78},
        "tooltip": _tooltip(),
        "xAxis": {"type": "category", "data": list(columns), "axisLabel": {**labels, "rotate": 25, "interval": 0}},
        "yAxis": {"type": "category", "data": list(rows), "inverse": True, "axisLabel": {**labels, "interval": 0}},
        "visualMap": {
            "min": 0,
            "max": max(2.0 / len(columns), *(p for row in table for p in row)),  # an undecided mixture is half as dark
            "show": False,
            "inRange": {"opacity": [0.02, 0.85]},
            "seriesIndex": 0,
        },
        "series": [
            {
                "id": "mixture",
                "type": "heatmap",
                "data": data,
                "itemStyle": {"color": SEARCH, "borderColor": GRID, "borderWidth": 1},
            },
            _cell_values("mixture.values", [d["value"] for d in data]),
        ],
    }


def _cell_values(name: str, cells: Iterable[Sequence[float]]) -> Series:
    """The numbers in the cells (x, y, value) of a heat map. Labels of the cells themselves would fade with them."""
    return {
        "id": name,
        "type": "scatter",
        "symbolSize": 1,
        "silent": True,
        "itemStyle": {"color": "transparent"},
        "label": {"show": True, "color": INK, "fontSize": 11, "position": "inside"},
        "data": [{"value": [x, y], "label": {"formatter": f"{value:.2f}"}} for x, y, value in cells],
    }


_ESTIMATES = (  # of a held-out network: field, name, symbol, colour
    ("before", "Before the split", "diamond", BASELINE),
    ("one_shot", "Undivided, trained as long", "rect", PURPLE),
    ("after", "After the split", "circle", SEARCH),
)


def typical(trust: RankCorrelationSchema) -> list[RankedArchSchema]:
    """The held-out networks but those that learn next to nothing even when trained alone, far below all others; a chart
    with them has no room for the rest."""
    middle = median(n.alone for n in trust.networks)
    spread = median(abs(n.alone - middle) for n in trust.networks)
    return [n for n in trust.networks if n.alone >= middle - 8 * max(1.0, spread)]


def ranking(trust: RankCorrelationSchema) -> Options:
    """Estimates of held-out networks over what they reach when trained alone, before and after the split; framed around
    those that are ``typical``."""
    shown = {n.arch for n in typical(trust)}
    series = []
    for field, name, symbol, colour in _ESTIMATES:
        data = [
            {
                "value": [n.alone, estimate],
                "arch": n.arch,
                "tip": _tip(
                    n.arch,
                    [("Trained alone <i>trained</i>", formatting.quantity(n.alone, "%"))]
                    + [(f"{name} <i>estimated</i>", formatting.quantity(estimate, "%"))],
                ),
            }
            for n in trust.networks
            if (estimate := getattr(n, field)) is not None
        ]
        series.append(_scatter(f"trust.estimated.{field}", name, data, symbol, colour, size=9))
    cells = [d["value"] for s in series for d in s["data"] if d["arch"] in shown]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": _axis("Validation accuracy (%, trained alone)", [x for x, _ in cells], floor=0.0, ceiling=100.0),
        "yAxis": _axis("Validation accuracy (%, estimated)", [y for _, y in cells], floor=0.0, ceiling=100.0, gap=44),
        "series": series,
    }


def similarity(view: GradientSimilaritySchema) -> Options:
    """How far the gradients of a decision's choices agree, as shades: one colour where they do, another where they pull
    apart. Choices of a group stand together."""
    order = [view.choices.index(c) for group in view.groups for c in group]
    names = [view.choices[i] for i in order]
    cells = [(x, y, view.similarity[order[y]][order[x]]) for y in range(len(order)) for x in range(len(order))]
    series: list[Series] = []
    shades: list[dict[str, Any]] = []
    for i, (kind, colour, some) in enumerate(
        (
            ("agree", SEARCH, [c for c in cells if c[2] >= 0]),
            ("disagree", BASELINE, [c for c in cells if c[2] < 0]),
        )
    ):
        data = [
            {
                "value": [x, y, abs(v)],
                "tip": _tip(f"{names[y]} and {names[x]}", [("Cosine of their gradients", f"{v:.4f}")]),
            }
            for x, y, v in some
        ]
        style = {"color": colour, "borderColor": GRID, "borderWidth": 1}
        series.append({"id": f"similarity.{kind}", "type": "heatmap", "data": data, "itemStyle": style})
        shades.append({"min": 0, "max": 1, "show": False, "seriesIndex": i, "inRange": {"opacity": [0.03, 0.75]}})
    series.append(_cell_values("similarity.values", cells))
    labels = {"color": FAINT, "fontSize": 11, "interval": 0}
    return {
        **_frame(),
        "grid": {"left": 8, "right": 14, "top": 8, "bottom": 8, "containLabel": True},
        "tooltip": _tooltip(),
        "xAxis": {"type": "category", "data": names, "axisLabel": {**labels, "rotate": 30}},
        "yAxis": {"type": "category", "data": names, "inverse": True, "axisLabel": labels},
        "visualMap": shades,
        "series": series,
    }


def predictor(card: PredictorCardSchema) -> Options:
    """Measured over predicted latency of held-out networks, with the line of equality and the calibrated bound."""
    rows = sorted(zip(card.predicted_ms, card.measured_ms, card.upper_ms, strict=True))
    inside = [r for r in rows if r[1] <= r[2]]
    outside = [r for r in rows if r[1] > r[2]]
    lo, hi = min([r[0] for r in rows], default=0.0), max([r[0] for r in rows], default=1.0)

    def dots(kind: str, name: str, some: list[tuple[float, float, float]], symbol: str, colour: str) -> Series:
        data = [
            {
                "value": [p, m],
                "tip": _tip(
                    "Held-out network",
                    [("Predicted", formatting.quantity(p, "ms")), ("Measured", formatting.quantity(m, "ms"))]
                    + [("Upper bound", formatting.quantity(u, "ms"))],
                ),
            }
            for p, m, u in some
        ]
        return _scatter(kind, name, data, symbol, colour, size=9)

    series = [
        _plain_line("equality", "Predicted = measured", [(lo, lo), (hi, hi)], FAINT, "dotted"),
        _plain_line("bound", "95 % upper bound", [(p, u) for p, _, u in rows], INK, "dashed"),
        dots("measured.inside", "At or below its bound", inside, "circle", SEARCH),
        dots("measured.outside", "Above its bound", outside, "triangle", BAD),
    ]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": _axis("Predicted latency (ms)", [lo, hi], floor=0.0),
        "yAxis": _axis("Measured latency (ms)", [v for r in rows for v in r[1:]] + [lo], floor=0.0, gap=44),
        "series": series,
    }


def drift(view: DriftSchema) -> Options:
    """Measured over predicted latency of networks over time, its median in every session, and the canary's."""
    networks = [(r.at, r.ratio) for r in view.readings if r.ratio is not None]
    medians = [(s.at, s.ratio) for s in view.sessions if s.ratio is not None]
    canary = [(s.at, s.canary) for s in view.sessions]

    def cells(what: str, points: Sequence[tuple[datetime, float]]) -> list[dict[str, Any]]:
        return [
            {"value": [at.timestamp() * 1000, ratio], "tip": _tip(what, [(formatting.moment(at), f"{ratio:.3f}")])}
            for at, ratio in points
        ]

    def line(ident: str, name: str, points: Sequence[tuple[datetime, float]], colour: str, style: str) -> Series:
        drawn = _plain_line(ident, name, [], colour, style) | {"silent": False, "symbol": "circle", "symbolSize": 7}
        return drawn | {"data": cells(name, points)}

    series = [
        _scatter("drift.networks", "Networks", cells("Measured / predicted", networks), "circle", SEARCH, size=5),
        line("drift.median", "Their median, by session", medians, SEARCH, "solid"),
        line("drift.canary", "Canary, by session", canary, BASELINE, "dashed"),
    ]
    series[0]["itemStyle"]["opacity"] = 0.42
    limits = [{"yAxis": 1 - LIMIT}, {"yAxis": 1 + LIMIT}]
    series.append(_bounds_series(limits) | {"id": "drift.limits", "name": "Limits"})
    axis = _axis("", [])
    times = {k: axis[k] for k in ("axisLine", "axisTick", "splitLine")}
    values = [1 - LIMIT, 1 + LIMIT, *(v for _, v in (*networks, *canary))]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": {"type": "time", "axisLabel": {"color": FAINT, "hideOverlap": True}, **times},
        "yAxis": _axis("Measured / expected", values, floor=0.0, gap=44),
        "series": series,
    }


def comparison(view: DeviceComparisonSchema) -> Options:
    """Latency on one device over that on the other, by how networks are known there."""
    groups: dict[str, list[LatencyPairSchema]] = {"both": [], "one": [], "none": []}
    for pair in view.pairs:
        measured = [pair.first_kind, pair.second_kind].count("measured")
        groups["none" if measured == 0 else "one" if measured == 1 else "both"].append(pair)

    def cells(pairs: Sequence[LatencyPairSchema]) -> list[dict[str, Any]]:
        return [
            {
                "value": [p.first_ms, p.second_ms],
                "tip": _tip(
                    p.arch,
                    [
                        (f"{view.first} ({p.first_kind})", formatting.quantity(p.first_ms, "ms")),
                        (f"{view.second} ({p.second_kind})", formatting.quantity(p.second_ms, "ms")),
                    ],
                ),
            }
            for p in pairs
        ]

    firsts, seconds = [p.first_ms for p in view.pairs], [p.second_ms for p in view.pairs]
    lo, hi = min(firsts, default=0.0), max(firsts, default=1.0)
    series = [
        _plain_line(
            "ratio", f"{view.ratio:.2f} times", [(lo, lo * view.ratio), (hi, hi * view.ratio)], FAINT, "dotted"
        ),
        _scatter("pairs.none", "Predicted on both", cells(groups["none"]), "diamond", BASELINE, size=6),
        _scatter("pairs.one", "Measured on one", cells(groups["one"]), "rect", "var(--c-purple)", size=7),
        _scatter("pairs.both", "Measured on both", cells(groups["both"]), "circle", SEARCH, size=9),
    ]
    return {
        **_frame(),
        "legend": _legend(series),
        "tooltip": _tooltip(),
        "xAxis": _axis(f"Latency on {view.first} (ms)", firsts, floor=0.0),
        "yAxis": _axis(f"Latency on {view.second} (ms)", seconds, floor=0.0, gap=44),
        "series": series,
    }


# Parts


def _points(
    ident: str,
    name: str,
    points: Iterable[CandidateSchema],
    xm: str,
    ym: str,
    symbol: str,
    colour: str,
    *,
    size: int = 8,
    faint: bool = False,
    hollow: bool = False,
) -> Series:
    data = [_datum(p, xm, ym) for p in points if xm in p.metrics and ym in p.metrics]
    if ".measured." in ident:
        data = [d if d["front"] else {**d, "symbolSize": 0.65 * size} for d in data]
    out = _scatter(ident, name, data, symbol, colour, size=5 if faint else size)
    if faint:
        out["itemStyle"]["opacity"] = 0.42
    elif hollow:
        faded = 0.55 if ".predicted." in ident else 1.0
        out["itemStyle"] = {"color": SURFACE, "borderColor": colour, "borderWidth": 1.4, "opacity": faded}
    return out


def _scatter(ident: str, name: str, data: list[dict[str, Any]], symbol: str, colour: str, *, size: int) -> Series:
    return {
        "id": ident,
        "name": name,
        "type": "scatter",
        "symbol": symbol,
        "symbolSize": size,
        "itemStyle": {"color": colour, "borderColor": SURFACE, "borderWidth": 1 if size > 6 else 0, "opacity": 1.0},
        "emphasis": {"scale": 1.5, "itemStyle": {"opacity": 1.0, "color": "inherit"}},
        "data": data,
        "animation": False,
    }


def _line(
    ident: str, name: str, points: Sequence[CandidateSchema], xm: str, ym: str, colour: str, joined: bool, symbol: str
) -> Series:
    """The members of a front. While it is predicted, a step shows what is reachable within so much cost; the members of
    a measured front were chosen on validation data, so their test accuracies need not rise, and are merely joined."""
    stepped = ".predicted." in ident
    data = sorted((_datum(p, xm, ym) for p in points if xm in p.metrics and ym in p.metrics), key=lambda d: d["value"])
    return {
        "id": ident,
        "name": name,
        "type": "line",
        "step": "end" if stepped else False,
        "symbol": symbol,
        "symbolSize": 9,
        "showAllSymbol": True,
        "lineStyle": {
            "color": colour,
            "width": 2 if joined else 0,
            "type": "dashed" if ident.startswith("baseline") else "solid",
        },
        "itemStyle": {"color": colour, "borderColor": SURFACE, "borderWidth": 0 if symbol == "none" else 1},
        "emphasis": {"scale": 1.4, "lineStyle": {"width": 2 if joined else 0, "color": colour}},
        "data": data if joined or symbol != "none" else [],
        "animation": False,
        # A line without symbols lies under the points and leaves the pointer to them.
        "silent": symbol == "none",
        "z": 1 if symbol == "none" else 4,
    }


def _curve(
    ident: str, name: str, cells: list[tuple[float, float]], colour: str, symbol: str, *, dashed: bool = False
) -> Series:
    data = [
        {
            "value": [x, y],
            "tip": _tip(name, [("Evaluations", formatting.count(x)), ("Hypervolume", formatting.share(y))]),
        }
        for x, y in cells
    ]
    return {
        "id": ident,
        "name": name,
        "type": "line",
        "symbol": symbol,
        "symbolSize": 7,
        "lineStyle": {"color": colour, "width": 2, "type": "dashed" if dashed else "solid"},
        "itemStyle": {"color": colour},
        "emphasis": {"lineStyle": {"width": 2, "color": colour}, "itemStyle": {"color": colour}},
        "data": data,
        "animation": False,
    }


def _plain_line(ident: str, name: str, cells: list[tuple[float, float]], colour: str, style: str) -> Series:
    return {
        "id": ident,
        "name": name,
        "type": "line",
        "symbol": "none",
        "silent": True,
        "lineStyle": {"color": colour, "width": 1.5, "type": style},
        "itemStyle": {"color": colour},
        "data": [{"value": list(c)} for c in cells],
        "animation": False,
    }


def _bound(axis: ObjectiveSchema, key: str) -> dict[str, Any] | None:
    if axis.bound is None:
        return None
    text = f"bound {axis.bound:g} {axis.unit}".strip()
    return {key: axis.bound, "label": {"formatter": text, "position": "end", "color": BAD}}


def _bounds_series(marks: list[dict[str, Any]]) -> Series:
    return {
        "id": "bound",
        "name": "Bound",
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


def _datum(point: CandidateSchema, xm: str, ym: str) -> dict[str, Any]:
    shown = [n for n in dict.fromkeys((ym, xm, "upper_ms", "params", "macs", *point.metrics)) if n in point.metrics]
    rows = [
        (f"{escape(formatting.label(n))} <i>{point.metrics[n].kind}</i>", formatting.metric(point.metrics, n))
        for n in shown
        if n != "val_loss"
    ]
    return {
        "value": [point.metrics[xm].value, point.metrics[ym].value],
        "arch": point.arch,
        "origin": point.origin,
        "front": point.on_front,
        "tip": _tip(f"{point.arch} · {point.origin} · {point.status}", rows),
    }


def _tip(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """A hover's HTML. Titles and values are escaped; labels are ours."""
    cells = "".join(f"<tr><td>{label}</td><td>{escape(value)}</td></tr>" for label, value in rows)
    return f'<div class="tip"><b>{escape(title)}</b><table>{cells}</table></div>'


def _title(axis: ObjectiveSchema, metric: str) -> str:
    kind = METRICS[metric].kind if metric in METRICS and metric != axis.metric else axis.kind
    name = formatting.label(metric)
    unit = METRICS[metric].unit if metric in METRICS else axis.unit
    parts = [unit] if unit else []
    if kind not in name.lower():
        parts.append(kind)
    return f"{name} ({', '.join(parts)})" if parts else name


def _values(axis: ObjectiveSchema) -> list[float]:
    return [] if axis.bound is None else [axis.bound]


def _frame() -> Options:
    return {
        "grid": {"left": 62, "right": 22, "top": 46, "bottom": 48},
        "textStyle": {"fontFamily": "Roboto, system-ui, sans-serif", "color": INK},
        "animation": False,
    }


def _legend(series: Sequence[Series]) -> Options:
    """Names of the series that have something to show."""
    return {
        "data": [
            {"name": s["name"]} | ({"icon": _DASHES[s["lineStyle"]["type"]]} if s["symbol"] == "none" else {})
            for s in sorted(series, key=lambda s: not s["id"].startswith("search"))
            if s["data"]
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


def _tooltip() -> Options:
    return {
        "trigger": "item",
        "confine": True,
        ":formatter": "p => p.data && p.data.tip ? p.data.tip : ''",
        "backgroundColor": SURFACE,
        "borderColor": GRID,
        "textStyle": {"color": INK, "fontSize": 12},
        "extraCssText": "box-shadow: 0 6px 24px rgb(0 0 0 / .18); border-radius: 8px;",
    }


def _axis(
    title: str, values: Iterable[float], *, floor: float = -math.inf, ceiling: float = math.inf, gap: int = 28
) -> Options:
    """A value axis that holds all ``values`` between round ends, never beyond ``floor`` and ``ceiling``."""
    lo, hi, step = nice_range(list(values), floor, ceiling)
    return {
        "type": "value",
        "name": title,
        "nameLocation": "middle",
        "nameGap": gap,
        "nameTextStyle": {"color": FAINT, "fontSize": 12},
        "min": lo,
        "max": hi,
        "interval": step,
        "axisLabel": {"color": FAINT, ":formatter": "v => +v.toPrecision(6)"},
        "axisLine": {"show": True, "lineStyle": {"color": GRID}},
        "axisTick": {"show": False},
        "splitLine": {"lineStyle": {"color": GRID}},
    }


def nice_range(values: Sequence[float], floor: float, ceiling: float) -> tuple[float, float, float]:
    """Round ends around ``values`` and the step between their few ticks: 1, 2 or 5 times a power of ten."""
    if not values:
        values = (max(floor, 0.0), min(ceiling, 1.0))
    lo, hi = min(values), max(values)
    pad = (hi - lo) * 0.05 or abs(hi) * 0.05 or 0.5
    lo, hi = max(lo - pad, floor), min(hi + pad, ceiling)
    rough = (hi - lo) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return max(math.floor(lo / step) * step, floor), min(math.ceil(hi / step) * step, ceiling), step
