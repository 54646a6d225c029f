"""The front of a search, and of its random baseline, over the objectives of its spec.

While a search runs, the axes are estimated and predicted metrics. Once networks have been verified, *membership* is
decided by the quality on validation images (of the task: accuracy, say) and measured latency, and *values* are the
quality on test images and measured latency: test data never choose a network. Where networks are retrained, theirs is
the quality that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nas.core.arch import Floats
from nas.core.candidates import ORIGINS, STATUSES, CandidateTable, Rows, predicted_metrics
from nas.core.errors import InvalidInput, UnknownName
from nas.core.events import Candidate, Origin
from nas.core.metrics import COSTS, METRICS, OBJECTIVES, SHARES
from nas.core.pareto import Mask, hypervolume, non_dominated
from nas.core.spec import SearchSpec


@dataclass(frozen=True)
class FrontContext:
    """What the finished stages of a search say about its fronts.

    ``reference``: by objective, the worst value that counts in hypervolumes, None while unknown. ``guiding_metric``
    stands for the quality until networks are verified, None: as estimated. ``verified``: whether verification has
    finished; ``measured``: whether it could measure latencies. ``by_device``: the same for devices of a fleet that
    differ.
    """

    reference: Mapping[str, float] | None = None
    guiding_metric: str | None = None
    verified: bool = False
    measured: bool = False
    by_device: Mapping[str, FrontContext] = field(default_factory=dict)

    def on(self, device: str) -> FrontContext:
        """The context of one device."""
        return self.by_device.get(device, self)

    def reference_of(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """The reference values of ``objectives``, None while unknown. Raises InvalidInput for an objective without a
        reference value."""
        if self.reference is None:
            return None
        if missing := [n for n in objectives if n not in self.reference]:
            raise InvalidInput(
                f"no values of {missing[0]} for the networks of this search: expected some of "
                f"{', '.join(self.reference)}"
            )
        return tuple(float(self.reference[n]) for n in objectives)


@dataclass(frozen=True)
class Front:
    """Fronts of search and baseline over the same axes, best quality first.

    ``reference`` is the worst value per axis that counts; hypervolumes are shares of the box between it and the ideal
    (100 % or no error, zero cost), None before anything was evaluated. Networks that break a bound of the spec, or that
    ran elsewhere than it demands, are no part of a front once measured; the ``violated`` mark without a bound means
    that the predictor's upper bound was broken.
    """

    objectives: tuple[str, ...]
    metrics: tuple[str, ...]
    members: tuple[Candidate, ...]
    baseline: tuple[Candidate, ...]
    hypervolume: float | None
    baseline_hypervolume: float | None
    reference: tuple[float, ...]
    final: bool


def compute_front(
    spec: SearchSpec,
    table: CandidateTable,
    context: FrontContext,
    objectives: Sequence[str] | None = None,
    bound_ms: float | None = None,
    device: str | None = None,
) -> Front:
    """The front of the networks in ``table``. ``bound_ms`` further limits latency. ``device``: the front on that
    device of a fleet; if each device has a front, the default is the first.

    Raises UnknownName or InvalidInput for objectives that cannot span a front.
    """
    if spec.fleet is not None and (device := device or spec.views[0]) is not None:
        if len(table):
            table = table.on(device)
        spec, context = spec.on(device), context.on(device)
    names = tuple(objectives or (o.name for o in spec.objectives))
    valid = (spec.task.objective, *COSTS)
    for name in names:
        if name not in valid:
            raise UnknownName("objective", name, valid)
    if len(set(names)) != len(names) or not 2 <= len(names) <= 4:
        raise InvalidInput(f"expected 2 to 4 different objectives of {', '.join(valid)}, got {', '.join(names)}")
    final = context.verified or bool(table.measurements)
    # On a device without measurements, latency stays predicted.
    measured = context.measured or bool(table.measurements)
    metric_of = {o: OBJECTIVES[o][measured if o == "latency" else final] for o in valid}
    if spec.by_share:
        metric_of["latency"] = SHARES[metric_of["latency"]]
    task = spec.task
    if not final and context.guiding_metric is not None:
        metric_of[task.objective] = context.guiding_metric
    metrics = tuple(metric_of[n] for n in names)
    # Test data choose nothing, and before it is measured a latency is held to its calibrated upper bound.
    deciding = task.deciding(spec.retrain is not None)
    choose = tuple(deciding if m == task.tested else m for m in metrics)
    bounded_metrics = {
        task.tested: deciding,
        "predicted_ms": "upper_ms",
        "predicted_share": "upper_share",
        "predicted_mj": "upper_mj",
    }
    # Bounds hold whether or not their objective is an axis of this front.
    limits = {o: spec.bound(o) for o in valid} | ({"latency": 100.0} if spec.by_share else {})
    bounds = {bounded_metrics.get(m := metric_of[o], m): limit for o, limit in limits.items() if limit is not None}
    bounds.pop("proxy_score", None)  # which is no quality
    if bound_ms is not None:
        limited = "measured_ms" if measured else "upper_ms"
        bounds[limited] = min(bound_ms, bounds.get(limited, bound_ms))
    reference = context.reference_of(names)
    if reference is not None:
        reference = tuple(0.0 if m == "proxy_score" else r for m, r in zip(metrics, reference, strict=True))
    # A network that breaks a bound on one device of a fleet gives its place to those that it had dominated.
    dominance_is_final = not final and not table.measured and {*metrics, *bounds} <= predicted_metrics()
    possible = table.non_dominated if dominance_is_final and table.non_dominated is not None else np.arange(len(table))
    feasible_N = _meets(table, possible, bounds)
    if spec.fleet is not None and limits["latency"] is not None:  # broken on one device before all have measured it
        feasible_N &= table.status_N[possible] != STATUSES.index("violated")
    if spec.placement:
        feasible_N &= np.array([_is_placed(table, int(row), spec) for row in possible], dtype=bool)
    for metric in {*metrics, *choose}:
        feasible_N &= ~np.isnan(table.metric(metric)[possible])
    possible = possible[feasible_N]

    def on_front(origin: Origin) -> tuple[Candidate, ...]:
        rows = possible[table.origin_N[possible] == ORIGINS.index(origin)]
        losses = np.stack([_losses(table, m, rows) for m in choose], axis=1)
        front_rows = np.flatnonzero(non_dominated(losses))
        # Of equal networks the first; sorted by their losses.
        _, first = np.unique(losses[front_rows], axis=0, return_index=True)
        return tuple(table.candidate(int(row)) for row in rows[front_rows[first]])

    search, baseline = on_front("search"), on_front("baseline")

    def volume(members: Sequence[Candidate]) -> float | None:
        if reference is None or len(table) == 0:
            return None
        return relative_hypervolume(members, metrics, reference)

    return Front(names, metrics, search, baseline, volume(search), volume(baseline), reference or (), final)


def relative_hypervolume(candidates: Sequence[Candidate], metrics: Sequence[str], reference: Sequence[float]) -> float:
    """Dominated share (0 to 1) of the box between ``reference`` and the ideal point."""
    if not candidates:
        return 0.0
    scaled = np.empty((len(candidates), len(metrics)))
    for j, (metric, worst) in enumerate(zip(metrics, reference, strict=True)):
        value = np.array([c.metrics[metric] for c in candidates])
        if METRICS[metric].goal == "max":
            value, worst = 100.0 - value, 100.0 - worst
        scaled[:, j] = value / max(worst, 1e-9)  # where a blind answer is perfect, no network can be better
    return hypervolume(scaled, np.ones(len(metrics)))


def _losses(table: CandidateTable, metric: str, rows: Rows) -> Floats:
    value = table.metric(metric)[rows]
    return -value if METRICS[metric].goal == "max" else value


def _is_placed(table: CandidateTable, row: int, spec: SearchSpec) -> bool:
    """Whether a network ran where the spec demands, on every device that has measured it; true before it is measured.
    Where the runtime does not tell, it did not."""
    parts = table.measured.get(row)
    measurements = [table.measurements.get(row)] if parts is None else [part.measurement for part in parts.values()]
    return all(
        m.placement is not None and m.placement.meets(spec.placement)
        for m in measurements
        if m is not None and m.refused is None
    )


def _meets(table: CandidateTable, rows: Rows, bounds: Mapping[str, float]) -> Mask:
    """Which of the rows keep every bound; a network that lacks what is bounded keeps none."""
    meets: Mask = np.ones(len(rows), dtype=bool)
    for metric, bound in bounds.items():
        value = table.metric(metric)[rows]
        meets &= value >= bound if METRICS[metric].goal == "max" else value <= bound
    return meets
