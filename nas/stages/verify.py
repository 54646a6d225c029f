"""Earning the latencies: front members are exported, re-measured on the device and marked; then tested once.

Search and baseline are verified alike. ``verified`` and ``violated`` are judged against what was claimed before
measuring: the user's bound, or else the predictor's own 95 % upper bound. Where networks were retrained, those are
verified, with their own weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nas.core.cost import Span, StageCost, average
from nas.core.events import (
    Evaluated,
    Event,
    Measured,
    Origin,
    Point,
    Progress,
    SearchState,
    StageFinished,
    Warned,
    fold,
)
from nas.core.fronts import front_of
from nas.core.ports import Problem, Resources
from nas.export import to_onnx
from nas.stages.pricing import measuring, networks, scoring_s, verified
from nas.stages.subnets import Subnets, load_subnets

ORIGINS: tuple[Origin, ...] = ("search", "baseline")


@dataclass(frozen=True)
class VerifyStage:
    """Measures up to ``spec.budget.verified`` networks of each origin, by fronts of rising rank."""

    group: int = 12
    name: ClassVar[str] = "verify"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Networks that were measured before a restart are not measured again."""
        subnets = load_subnets(problem, resources, state)
        chosen = [p for o in ORIGINS for p in candidates(problem, state, o, problem.spec.budget.verified)]
        unmeasured = problem.profile.measurable
        todo = [p for p in chosen if (unmeasured and p.measurement is None) or "test_accuracy" not in p.metrics]
        for event in earn(self.name, problem, resources, subnets, todo, len(chosen), self.group):
            state = fold(state, event)
            yield event
        if not problem.profile.measurable:
            yield Warned(
                self.name,
                f"nothing can be measured on device {problem.profile.name!r}, of which only figures are known: "
                "latencies stay predicted, and no network is called verified",
            )
        result = {"measured": problem.profile.measurable}
        front = front_of(problem.spec, replace(state, finished={**state.finished, self.name: result}))
        marks = [p.status for p in state.of("search") if p.measurement is not None]
        yield StageFinished(
            self.name,
            0.0,
            {
                **result,
                "verified": marks.count("verified"),
                "violated": marks.count("violated"),
                "unverified": marks.count("unverified"),
                "front_size": len(front.points),
                "hypervolume": front.hypervolume,
                "baseline_hypervolume": front.baseline_hypervolume,
            },
        )

    def price(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Networks that are tested and exported, and a small group that is measured."""
        clock = resources.clock
        begun = clock()
        subnets = load_subnets(problem, resources, state, untrained_will_do=True)
        total = Span.exactly(clock() - begun)
        archs, macs = networks(problem.space)
        models: dict[int, bytes] = {}

        def seconds_of(i: int) -> float:
            tested_s, module = scoring_s(subnets, archs[i], problem.data.test, clock)
            begun = clock()
            models[i] = to_onnx(subnets.with_normalisation(module), problem.space.input_shape(archs[i]))
            return tested_s + clock() - begun

        tested = average(macs.tolist(), seconds_of)
        some = [*models][:3]
        named = {archs[i].id: models[i] for i in some}
        measured = measuring(named, problem.profile, resources.measure, clock)
        fewest, most = (len(ORIGINS) * n for n in verified(problem))
        each = tested.span + measured.each + Span.exactly(measured.begin_s / self.group)
        total += Span(each.low_s * fewest, each.seconds * most, each.high_s * most)
        note = "an unsteady device measures networks again; the range is from one to all attempts"
        return StageCost.of(self.name, total, most, tested.count, "networks", note)


def earn(
    stage: str, problem: Problem, resources: Resources, subnets: Subnets, todo: Sequence[Point], total: int, group: int
) -> Iterator[Event]:
    """Tests ``todo``, the last of ``total`` networks, and measures them in groups, where they can be measured. What is
    claimed is the user's bound, or else the bound among a network's metrics."""
    done = total - len(todo)
    for i in range(0, len(todo), group):
        some = todo[i : i + group]
        models = []
        tested = []
        for p in some:
            module = subnets.cut(p.arch)
            tested.append(
                Point(p.arch, p.origin, {"test_accuracy": subnets.score(module, p.arch, problem.data.test).accuracy})
            )
            if problem.profile.measurable:
                models.append(to_onnx(subnets.with_normalisation(module), problem.space.input_shape(p.arch)))
            yield Progress(stage, done, total, "networks", message="exporting")
        yield Evaluated(tuple(tested))
        if not problem.profile.measurable:
            done += len(some)
            yield Progress(stage, done, total, "networks", message="testing")
            continue
        networks = [p.arch.id for p in some]
        for p, measurement in zip(some, resources.measure(models, problem.profile, networks), strict=True):
            yield Measured(p.arch, p.origin, measurement, problem.spec.bound("latency") or p.metrics["upper_ms"])
            if measurement.refused is not None:
                yield Warned(stage, f"network {p.arch.id} was not measured: {measurement.refused}")
            done += 1
            yield Progress(stage, done, total, "networks", message="measuring")


def candidates(problem: Problem, state: SearchState, origin: Origin, n: int) -> list[Point]:
    """The networks of one origin that are worth measuring: its estimated front, then the front of what remains, and so
    on, until ``n``. Measured values play no part, so a restart chooses the same. After retraining, only networks that
    were retrained are left, and what they have reached stands for what was estimated."""
    points = state.of(origin)
    if "retrain" in state.finished:
        points = [p for p in points if "trained_accuracy" in p.metrics]
    chosen: list[Point] = []
    rest = {
        p.key: Point(p.arch, p.origin, _estimates(p, "retrain" in state.finished), claim_ms=p.claim_ms) for p in points
    }
    while rest and len(chosen) < n:
        layer = front_of(problem.spec, SearchState(finished=unverified(state), points=rest))
        members = layer.points if origin == "search" else layer.baseline
        if not members:
            break
        members = members[: n - len(chosen)] if len(members) <= n - len(chosen) else thin(members, n - len(chosen))
        chosen += [state.points[p.key] for p in members]
        rest = {k: p for k, p in rest.items() if k not in {m.key for m in members}}
    return chosen


def thin(points: tuple[Point, ...], n: int) -> tuple[Point, ...]:
    """``n`` of the points, evenly by rank, both ends kept."""
    if n == 1:
        return points[:1]
    return tuple(points[round(i * (len(points) - 1) / (n - 1))] for i in range(n))


def _estimates(point: Point, retrained: bool) -> dict[str, float]:
    known = {k: v for k, v in point.metrics.items() if k not in ("measured_ms", "test_accuracy")}
    return {**known, "val_accuracy": known["trained_accuracy"]} if retrained else known


def unverified(state: SearchState) -> dict[str, Mapping[str, Any]]:
    """The results of stages as they were before any network was measured."""
    return {k: v for k, v in state.finished.items() if k not in ("verify", "learn")}
