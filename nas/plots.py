"""Plots of fronts and of decisions for notebooks, with matplotlib (the extra ``notebook``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.core.decision_importance import ImportanceReport
from nas.core.errors import InvalidInput
from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema, FrontSchema, ObjectiveSchema

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEARCH, _BASELINE, _REFERENCE = "#0072b2", "#c46a00", "#8a4f9e"
_MOST_DECISIONS = 15


def plot_front(front: FrontSchema, ax: Axes | None = None) -> Axes:
    """The quality over the first cost: members of the search and of random search, and references as stars; error bars
    are the 95 % intervals of measured latencies. Draws on ``ax``, or on new axes. Raises InvalidInput without
    matplotlib."""
    ax = _axes(ax)
    x, y = front.costs[0], front.quality
    groups = (
        ("Search", front.members, _SEARCH, "o"),
        ("Random search", front.baseline, _BASELINE, "D"),
        ("References", front.references, _REFERENCE, "*"),
    )
    for label, candidates, colour, marker in groups:
        placed = [c for c in candidates if x.metric in c.metrics and y.metric in c.metrics]
        if placed:
            _draw_group(ax, placed, x, y, label, colour, marker)
    for axis, draw in ((x, ax.axvline), (y, ax.axhline)):
        if axis.bound is not None:
            draw(axis.bound, color="#c02d1c", linestyle="--", linewidth=1)
    ax.set_xlabel(_title(x))
    ax.set_ylabel(_title(y))
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend()
    return ax


def plot_importance(report: ImportanceReport, ax: Axes | None = None) -> Axes:
    """Bars of the most important decisions for a metric. Draws on ``ax``, or on new axes. Raises InvalidInput without
    matplotlib."""
    ax = _axes(ax)
    most_important = report.decisions[:_MOST_DECISIONS][::-1]
    ax.barh(
        [decision.decision for decision in most_important],
        [decision.importance for decision in most_important],
        color=_SEARCH,
    )
    label = METRICS[report.metric].label if report.metric in METRICS else report.metric
    ax.set_xlabel(f"importance for {label} ({max(0.0, report.explained):.0%} explained, {report.networks} networks)")
    return ax


def _draw_group(
    ax: Axes,
    candidates: Sequence[CandidateSchema],
    x: ObjectiveSchema,
    y: ObjectiveSchema,
    label: str,
    colour: str,
    marker: str,
) -> None:
    points = [(c.metrics[x.metric].value, c.metrics[y.metric].value) for c in candidates]
    ends = [_interval(c, x.metric, point[0]) for c, point in zip(candidates, points, strict=True)]
    errors = [[point[0] - low for point, (low, _) in zip(points, ends, strict=True)]]
    errors.append([high - point[0] for point, (_, high) in zip(points, ends, strict=True)])
    xs, ys = zip(*points, strict=True)
    ax.errorbar(xs, ys, xerr=errors, fmt=marker, color=colour, label=label, markersize=9 if marker == "*" else 6)


def _interval(candidate: CandidateSchema, metric: str, value: float) -> tuple[float, float]:
    """The 95 % interval of a measured latency; of another metric its value alone."""
    measurement = candidate.measurement
    if metric != "measured_ms" or measurement is None or measurement.low_ms is None or measurement.high_ms is None:
        return value, value
    return min(value, measurement.low_ms), max(value, measurement.high_ms)


def _title(axis: ObjectiveSchema) -> str:
    details = ", ".join(part for part in (axis.unit, axis.kind) if part)
    return f"{axis.label} ({details})"


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise InvalidInput('plots need matplotlib: pip install "hwnas[notebook]"') from error
    return pyplot.subplots()[1]
