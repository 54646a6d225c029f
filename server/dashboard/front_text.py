"""What the members of a front are, for people. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.conclusion import ConclusionCode
from nas.core.metrics import METRICS
from nas.core.tasks import task_of_objective
from nas.schemas.candidates import FrontSchema
from server.dashboard import formatting
from server.dashboard.charts.axes import ChartAxes, ChartSettings

CONCLUSION_TITLES: dict[ConclusionCode, str] = {
    "bounds_unmet": "No network meets every bound",
    "no_front": "The front is empty",
    "chance_level": "No network is better than guessing",
    "majority_level": "No network is better than naming the largest class",
}


def dominated_members(front: FrontSchema) -> int:
    """How many members are dominated by others in the values of the axes."""
    losses = [
        [c.metrics[o.metric].value * (-1.0 if o.goal == "max" else 1.0) for o in front.objectives]
        for c in front.members
    ]
    return sum(any(_dominates(other, own) for other in losses) for own in losses)


def _dominates(other: Sequence[float], own: Sequence[float]) -> bool:
    return other != own and all(a <= b for a, b in zip(other, own, strict=True))


def membership_note(front: FrontSchema) -> str:
    """By what membership is decided where the axes show other values; empty where they show the same."""
    quality = next((o for o in front.objectives if o.decided_by is not None), None)
    if quality is None or quality.decided_by is None:
        return ""
    labels = (METRICS[m].label for m in (quality.decided_by, quality.metric))
    decided_by, axis_metric = (f"{label[0].lower()}{label[1:]}" for label in labels)
    note = f"Members are chosen by {decided_by}, since test data choose no network; the axis shows {axis_metric}."
    if dominated := dominated_members(front):
        note += f" By {axis_metric}, {dominated} of {len(front.members)} members are dominated by others."
    return note


def front_caption(front: FrontSchema, axes: ChartAxes, settings: ChartSettings) -> str:
    """What the marks of the Pareto chart are, how their values came about, and why members may lie below its line."""
    task = task_of_objective(front.quality.objective)
    title = task.quality.title if task is not None else front.quality.objective
    parts = [_evidence_text(front, axes, settings, title)]
    if axes.final and not axes.custom and settings.evidence == "measured" and (note := membership_note(front)):
        parts.append(f"{note} The line joins those that no other one beats.")
    if len(front.objectives) > 2 and not axes.custom:
        parts.append(f"The front has {len(front.objectives)} objectives; this is a projection on two of them.")
    parts.append("Click a mark to open its candidate; Ctrl and the wheel zoom.")
    return " ".join(parts)


def _evidence_text(front: FrontSchema, axes: ChartAxes, settings: ChartSettings, title: str) -> str:
    if axes.custom:
        return "Metrics of your choice: all candidates that have both, members of the front larger; nothing is optimal."
    source = _latency_source(axes)
    if axes.final and settings.evidence == "measured":
        if axes.x.metric == "measured_ms" or axes.x.kind == "measured":
            return (
                "Filled marks: measured on the device and on test data, with 95 % intervals; front members are larger. "
                "Hollow circles: the search's predictions."
            )
        return (
            f"{source}{title[0].upper()}{title[1:]} is measured on test data, with 95 % intervals where they are known."
        )
    if axes.final:
        measured = "Measured costs" if axes.x.kind == "measured" else "Costs"
        return (
            f"{source}{measured} over the {title} that members are chosen by: no member is dominated in all objectives."
        )
    if front.final:
        return "All candidates as the search predicted them; larger marks are on the final front."
    if any(o.metric == "proxy_score" for o in front.objectives):
        return f"{source}Zero-cost scores rank architectures for training; they are no estimates of {title}."
    return f"{source}{title[0].upper()}{title[1:]} is estimated with shared weights; front members will be tested."


def _latency_source(axes: ChartAxes) -> str:
    """A sentence on costs that were not measured; empty for those that were, and for counted ones."""
    if axes.x.by_formula:
        return "Latency is calculated from peak figures of the device by a formula: nothing was measured on it. "
    return "Latency is predicted. " if axes.x.kind == "predicted" else ""


def limit_text(front: FrontSchema, axes: ChartAxes, limit: float | None) -> str:
    """What a bound that the reader tries leaves of the front; empty without one."""
    metric = axes.x.metric
    if limit is None:
        return ""
    placed = [c for c in front.members if metric in c.metrics]
    within_limit = [c for c in placed if c.metrics[metric].value <= limit]
    bound = f"With {METRICS[metric].label.lower()} of at most {formatting.quantity(limit, axes.x.unit)}"
    if not within_limit:
        return f"{bound}, no member of the front remains."
    quality = front.quality
    best = quality.best(c.metrics[quality.metric].value for c in within_limit)
    value = formatting.quantity(best, quality.unit)
    return f"{bound}, {len(within_limit)} of {len(placed)} members remain; best {quality.label.lower()} {value}."
