"""Charts of a gradient search: its readings over epochs, and the weights of its operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas.core.events import Traced
from server.dashboard.charts.options import (
    FAINT,
    GRID,
    INK,
    RUN_COLOURS,
    SEARCH,
    Options,
    Series,
    base_options,
    cell_label_series,
    plain_line_series,
    tooltip,
    tooltip_html,
    value_axis,
)

_RUN_KEYS = ("seed", "subspace")  # readings that name the run of all other readings of an event
_READING_TITLES = {
    "entropy": "Entropy of the operation weights",
    "skip_share": "Share of skip connections",
    "temperature": "Temperature",
    "alpha_norm": "Norm of the architecture parameters",
    "eigenvalue": "Dominant eigenvalue",
    "latency_ms": "Expected latency (ms, predicted)",
    "multiplier": "Weight of the latency",
    "alive": "Operations not pruned",
    "died": "Operations pruned in the epoch",
    "pressure": "Weight of the penalty",
}


def reading_title(name: str) -> str:
    """The title of a reading's chart."""
    return _READING_TITLES.get(name, name.replace("_", " "))


def by_run(traces: Sequence[Traced]) -> dict[str, list[Traced]]:
    """The traces in order, by their run: ``seed 0`` of several seeds, ``subspace 1`` of a partitioned space."""
    runs: dict[str, list[Traced]] = {}
    for trace in traces:
        name = next((f"{key} {int(trace.values[key])}" for key in _RUN_KEYS if key in trace.values), "")
        runs.setdefault(name, []).append(trace)
    return {name: runs[name] for name in sorted(runs, key=_run_number)}  # parallel runs begin in any order


def _run_number(run_name: str) -> int:
    return int(run_name.rpartition(" ")[2] or 0)


def reading_charts(runs: Mapping[str, Sequence[Traced]]) -> dict[str, Options]:
    """A chart over epochs for each reading, by its name, with a line for each run of ``by_run``."""
    names = dict.fromkeys(name for run in runs.values() for trace in run for name in trace.values)
    return {name: _reading_chart(name, runs) for name in names if name not in (*_RUN_KEYS, "epoch")}


def _reading_chart(name: str, runs: Mapping[str, Sequence[Traced]]) -> Options:
    title = reading_title(name)
    series: list[Series] = []
    points: list[tuple[float, float]] = []
    for (run_name, run), colour in zip(runs.items(), _cycle(len(runs)), strict=True):
        values = [(t.values.get("epoch", t.step), t.values[name]) for t in run if name in t.values]
        points += values
        data = [
            {
                "value": [epoch, value],
                "tip": tooltip_html(run_name, [("Epoch", f"{epoch:g}"), (title, f"{value:.4g}")]),
            }
            for epoch, value in values
        ]
        line = plain_line_series(f"trace.{name}.{run_name}", run_name, [], colour, "solid")
        series.append(line | {"silent": False, "symbol": "circle", "symbolSize": 4, "data": data})
    return {
        **base_options(),
        "title": {"text": title, "textStyle": {"fontSize": 12, "fontWeight": 500, "color": INK}},
        "grid": {"left": 52, "right": 14, "top": 34, "bottom": 40},
        "tooltip": tooltip(),
        "xAxis": value_axis("Epoch", [1.0, *(epoch for epoch, _ in points)], floor=0.0),
        "yAxis": value_axis("", [value for _, value in points]),
        "series": series,
    }


def _cycle(count: int) -> list[str]:
    return [RUN_COLOURS[i % len(RUN_COLOURS)] for i in range(count)]


def operation_weights_chart(trace: Traced) -> Options:
    """A heat map of the weights of a continuous relaxation: operations (columns) by edges (rows)."""
    cells = [(x, y, weight) for y, row in enumerate(trace.table) for x, weight in enumerate(row)]
    data = [
        {"value": [x, y, weight], "tip": tooltip_html(trace.rows[y], [(trace.columns[x], f"{weight:.4f}")])}
        for x, y, weight in cells
    ]
    labels = {"color": FAINT, "fontSize": 11, "interval": 0}
    columns = {"type": "category", "data": list(trace.columns), "axisLabel": {**labels, "rotate": 25}}
    uniform = 1.0 / len(trace.columns)
    return {
        **base_options(),
        "grid": {"left": 96, "right": 22, "top": 12, "bottom": 78},
        "tooltip": tooltip(),
        "xAxis": columns,
        "yAxis": {"type": "category", "data": list(trace.rows), "inverse": True, "axisLabel": labels},
        "visualMap": {
            "min": 0,
            "max": max(2.0 * uniform, *(weight for _, _, weight in cells)),  # uniform weights are half as dark
            "show": False,
            "inRange": {"opacity": [0.02, 0.85]},
            "seriesIndex": 0,
        },
        "series": [
            {
                "id": "operation_weights",
                "type": "heatmap",
                "data": data,
                "itemStyle": {"color": SEARCH, "borderColor": GRID, "borderWidth": 1},
            },
            cell_label_series("operation_weights.labels", cells),
        ],
    }
