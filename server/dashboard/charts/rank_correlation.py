"""How well estimates rank architectures: estimates over standalone accuracies, and similarities of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from nas.schemas.rank_correlation import GradientSimilaritySchema, RankCorrelationSchema, RankedArchSchema
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BASELINE,
    FAINT,
    GRID,
    PURPLE,
    SEARCH,
    Options,
    Series,
    base_options,
    cell_label_series,
    legend,
    scatter_series,
    tooltip,
    tooltip_html,
    value_axis,
)

_ESTIMATES: tuple[tuple[str, Callable[[RankedArchSchema], float | None], str, str, str], ...] = (
    ("before", lambda r: r.before, "Before the split", "diamond", BASELINE),
    ("one_shot", lambda r: r.one_shot, "Undivided, trained as long", "rect", PURPLE),
    ("after", lambda r: r.after, "After the split", "circle", SEARCH),
)


def without_outliers(correlation: RankCorrelationSchema) -> list[RankedArchSchema]:
    """The held-out architectures without those that learn next to nothing even when trained from scratch; a chart that
    is framed around such outliers has no room for the others."""
    centre = median(r.standalone for r in correlation.networks)
    spread = median(abs(r.standalone - centre) for r in correlation.networks)
    return [r for r in correlation.networks if r.standalone >= centre - 8 * max(1.0, spread)]


def ranking_chart(correlation: RankCorrelationSchema) -> Options:
    """Estimates of architectures over their qualities when trained alone: accuracies before and after the split, or, in
    a search without a split, whatever it went by. The axes are framed ``without_outliers``."""
    split = correlation.partition is not None
    trained, unit = ("From scratch", "%") if split else ("Alone", "")
    framed = {r.arch for r in without_outliers(correlation)}
    series = []
    for series_name, estimate_of, name, symbol, colour in _ESTIMATES:
        name = name if split else "Estimated"
        data = [
            {
                "value": [r.standalone, estimate],
                "arch": r.arch,
                "tip": tooltip_html(
                    r.arch,
                    [
                        (f"{trained} <i>trained</i>", formatting.quantity(r.standalone, unit)),
                        (f"{name} <i>estimated</i>", formatting.quantity(estimate, unit)),
                    ],
                ),
            }
            for r in correlation.networks
            if (estimate := estimate_of(r)) is not None
        ]
        if data or split:
            series.append(scatter_series(f"ranking.estimated.{series_name}", name, data, symbol, colour, size=9))
    points = [datum["value"] for s in series for datum in s["data"] if datum["arch"] in framed]
    titles = ("Validation accuracy (%,", "Validation accuracy (%,") if split else ("Quality (validation,", "Metric (as")
    ceiling = 100.0 if split else math.inf
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis(
            f"{titles[0]} trained {trained.lower()})", [x for x, _ in points], floor=0.0, ceiling=ceiling
        ),
        "yAxis": value_axis(f"{titles[1]} estimated)", [y for _, y in points], floor=0.0, ceiling=ceiling, gap=44),
        "series": series,
    }


def gradient_similarity_chart(similarity: GradientSimilaritySchema) -> Options:
    """A heat map of the cosine between the gradients of a decision's choices: one colour where they agree, another
    where they disagree. Choices of a group are neighbours."""
    order = [similarity.choices.index(choice) for group in similarity.groups for choice in group]
    names = [similarity.choices[i] for i in order]
    cells = [(x, y, similarity.similarity[j][i]) for y, j in enumerate(order) for x, i in enumerate(order)]
    series: list[Series] = []
    shades: list[Options] = []
    for series_name, colour, sign in (("agree", SEARCH, 1), ("disagree", BASELINE, -1)):
        data = [
            {
                "value": [x, y, abs(cosine)],
                "tip": tooltip_html(f"{names[y]} and {names[x]}", [("Cosine of their gradients", f"{cosine:.4f}")]),
            }
            for x, y, cosine in cells
            if (cosine >= 0) == (sign > 0)
        ]
        style = {"color": colour, "borderColor": GRID, "borderWidth": 1}
        opacity = {"opacity": [0.03, 0.75]}
        shades.append({"min": 0, "max": 1, "show": False, "seriesIndex": len(series), "inRange": opacity})
        series.append({"id": f"similarity.{series_name}", "type": "heatmap", "data": data, "itemStyle": style})
    labels = {"color": FAINT, "fontSize": 11, "interval": 0}
    return {
        **base_options(),
        "grid": {"left": 8, "right": 14, "top": 8, "bottom": 8, "containLabel": True},
        "tooltip": tooltip(),
        "xAxis": {"type": "category", "data": names, "axisLabel": {**labels, "rotate": 30}},
        "yAxis": {"type": "category", "data": names, "inverse": True, "axisLabel": labels},
        "visualMap": shades,
        "series": [*series, cell_label_series("similarity.labels", cells)],
    }
