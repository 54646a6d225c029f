"""Which decisions matter: bars of their importance."""

from __future__ import annotations

from nas.core.decision_importance import ImportanceReport
from server.dashboard import formatting
from server.dashboard.charts.options import FAINT, GRID, INK, SEARCH, Options, base_options, tooltip, tooltip_html

MOST_SHOWN = 14


def importance_chart(report: ImportanceReport) -> Options:
    """A bar for each of the most important decisions; the tip has the mean of the metric by choice."""
    most_important = report.decisions[:MOST_SHOWN][::-1]
    unit = formatting.unit_and_kind(report.metric)[0]
    bars = []
    for decision in most_important:
        means = [
            (choice, formatting.MISSING if mean is None else formatting.quantity(mean, unit))
            for choice, mean in zip(decision.choices, decision.means, strict=True)
        ]
        title = f"{decision.decision}: {decision.importance:.0%}; mean by choice"
        bars.append({"value": decision.importance, "tip": tooltip_html(title, means)})
    axis = {"axisLabel": {"color": INK}, "axisLine": {"lineStyle": {"color": GRID}}, "axisTick": {"show": False}}
    return {
        **base_options(),
        "grid": {"left": 8, "right": 24, "top": 8, "bottom": 40, "containLabel": True},
        "tooltip": tooltip(),
        "xAxis": {
            "type": "value",
            "min": 0,
            "name": "Share of what the decisions explain",
            "nameLocation": "middle",
            "nameGap": 26,
            "nameTextStyle": {"color": FAINT},
            "axisLabel": {"color": FAINT, ":formatter": "v => Math.round(100 * v) + ' %'"},
            "splitLine": {"lineStyle": {"color": GRID}},
        },
        "yAxis": {"type": "category", "data": [decision.decision for decision in most_important], **axis},
        "series": [
            {"id": "importance", "type": "bar", "data": bars, "itemStyle": {"color": SEARCH}, "barMaxWidth": 16}
        ],
    }
