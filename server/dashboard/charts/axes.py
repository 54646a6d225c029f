"""The axes of the Pareto chart: which metric they show, of which kind it is, and the metrics there are to choose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nas.core.measures import Goal, MetricKind
from nas.core.metrics import METRICS
from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema, FrontSchema, ObjectiveSchema
from server.dashboard import formatting

Evidence = Literal["predicted", "measured", "validation"]
_PREDICTED = {"measured_ms": "predicted_ms", "measured_share": "predicted_share"}
_BY_FORMULA = ("predicted_ms", "predicted_share", "upper_ms", "upper_share", "predicted_mj", "upper_mj")


@dataclass(frozen=True)
class ChartSettings:
    """The reader's choices. ``x_objective``: the cost on the horizontal axis (empty: the first); ``x_metric`` and
    ``y_metric`` show any other metric in its place (empty: as ``evidence`` says). ``focus`` frames the fronts rather
    than every candidate. ``limit``: a bound that the reader tries, on the horizontal axis."""

    x_objective: str = ""
    evidence: Evidence = "measured"
    focus: bool = False
    x_metric: str = ""
    y_metric: str = ""
    log_x: bool = False
    log_y: bool = False
    limit: float | None = None


@dataclass(frozen=True)
class ChartAxis:
    """A metric on an axis: of this kind for the device of the front, with the bound of the search if it is one on this
    metric."""

    metric: str
    kind: MetricKind
    goal: Goal
    unit: str
    bound: float | None = None

    @property
    def by_formula(self) -> bool:
        """Whether a latency or energy is calculated from peak figures of a device, on which nothing was measured."""
        return self.kind == "estimated" and self.metric in _BY_FORMULA

    @property
    def title(self) -> str:
        """The name of the axis, with unit and kind of evidence."""
        name = formatting.label(self.metric)
        if self.by_formula:
            return f"{name.replace('Predicted', 'Calculated')} ({self.unit}, by formula)"
        details = [self.unit] if self.unit else []
        if self.kind not in name.lower():
            details.append(self.kind)
        return f"{name} ({', '.join(details)})" if details else name


@dataclass(frozen=True)
class ChartAxes:
    """Both axes. ``final``: whether candidates were tested and are drawn as such; ``custom``: whether the reader has
    chosen a metric that is no objective."""

    x: ChartAxis
    y: ChartAxis
    final: bool
    custom: bool


def chart_axes(front: FrontSchema, candidates: Sequence[CandidateSchema], settings: ChartSettings) -> ChartAxes:
    """The axes that the settings ask for. A front that is not ``final`` is drawn with predicted values whatever the
    evidence; ``validation`` shows the quality that decides membership beside measured costs."""
    y_axis = front.quality
    x_axis = next((o for o in front.costs if o.objective == settings.x_objective), front.costs[0])
    final = front.final and settings.evidence != "predicted"
    x_metric, y_metric = x_axis.metric, y_axis.metric
    if final and settings.evidence == "validation":
        y_metric = y_axis.decided_by or y_metric
    if not final:
        x_metric, y_metric = predicted_metric(x_metric), predicted_metric(y_metric)
        if not any(y_metric in c.metrics for c in candidates):
            y_metric = "proxy_score"  # a search without a supernet has no other score until it trains architectures
    kinds = metric_kinds((*candidates, *front.members, *front.baseline))
    return ChartAxes(
        _axis(x_axis, settings.x_metric or x_metric, kinds),
        _axis(y_axis, settings.y_metric or y_metric, kinds),
        final,
        custom=(settings.x_metric or x_metric, settings.y_metric or y_metric) != (x_metric, y_metric),
    )


def predicted_metric(metric: str) -> str:
    """The metric of an objective before anything is measured."""
    estimated = {task.tested: task.estimated for task in installed_tasks().values()}
    return _PREDICTED.get(metric) or estimated.get(metric, metric)


def metric_kinds(candidates: Iterable[CandidateSchema]) -> dict[str, MetricKind]:
    """The metrics that candidates have, in the order of ``METRICS``, with their kinds on this device."""
    kinds = {name: metric.kind for c in candidates for name, metric in c.metrics.items()}
    return {name: kinds[name] for name in METRICS if name in kinds}


def _axis(objective: ObjectiveSchema, metric: str, kinds: dict[str, MetricKind]) -> ChartAxis:
    info = METRICS[metric]
    same_objective = metric in (objective.metric, objective.decided_by, predicted_metric(objective.metric))
    bounded = same_objective and metric != "proxy_score"  # a bound on the quality does not bound a score
    kind = kinds.get(metric, objective.kind if metric == objective.metric else info.kind)
    return ChartAxis(metric, kind, info.goal, info.unit, objective.bound if bounded else None)
