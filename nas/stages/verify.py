"""Earning the latencies: front members are exported, re-measured on the device and marked; then tested once.

Search and baseline are verified alike. ``verified`` and ``violated`` are judged against what was claimed before
measuring: the user's bound, or else the predictor's own 95 % upper bound. Where networks were retrained, those are
verified, with their own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from nas.core.arch import Arch
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
        done = len(chosen) - len(todo)
        for i in range(0, len(todo), self.group):
            group = todo[i : i + self.group]
            models = []
            tested = []
            for p in group:
                module, test = self._test(problem, subnets, p.arch)
                tested.append(Point(p.arch, p.origin, {"test_accuracy": test}))
                if problem.profile.measurable:
                    models.append(to_onnx(subnets.with_normalisation(module), problem.space.input_shape(p.arch)))
                yield Progress(self.name, done, len(chosen), "networks", message="exporting")
            event: Event = Evaluated(tuple(tested))
            state = fold(state, event)
            yield event
            if not problem.profile.measurable:
                done += len(group)
                yield Progress(self.name, done, len(chosen), "networks", message="testing")
                continue
            networks = [p.arch.id for p in group]
            for p, measurement in zip(group, resources.measure(models, problem.profile, networks), strict=True):
                claim = problem.spec.bound("latency") or p.metrics["upper_ms"]
                event = Measured(p.arch, p.origin, measurement, claim)
                state = fold(state, event)
                yield event
                if measurement.refused is not None:
                    yield Warned(self.name, f"network {p.arch.id} was not measured: {measurement.refused}")
                done += 1
                yield Progress(self.name, done, len(chosen), "networks", message="measuring")
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

    def _test(self, problem: Problem, subnets: Subnets, arch: Arch) -> tuple[nn.Module, float]:
        module = subnets.cut(arch)
        return module, subnets.score(module, arch, problem.data.test).accuracy


def candidates(problem: Problem, state: SearchState, origin: Origin, n: int) -> list[Point]:
    """The networks of one origin that are worth measuring: its estimated front, then the front of what remains, and so
    on, until ``n``. Measured values play no part, so a restart chooses the same. After retraining, only networks that
    were retrained are left, and what they have reached stands for what was estimated."""
    points = state.of(origin)
    if "retrain" in state.finished:
        points = [p for p in points if "trained_accuracy" in p.metrics]
    chosen: list[Point] = []
    before = {k: v for k, v in state.finished.items() if k != "verify"}
    if "retrain" in before:  # zero-cost proxies have done what they can
        before.pop("proxies", None)
    rest = {
        p.key: Point(p.arch, p.origin, _estimates(p, "retrain" in state.finished), claim_ms=p.claim_ms) for p in points
    }
    while rest and len(chosen) < n:
        layer = front_of(problem.spec, SearchState(finished=before, points=rest))
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
