"""Verification: front members are exported, measured on the device and marked; then tested once.

Networks outside the domain of the latency predictor are measured before others: their latency cannot be predicted.
Search and baseline are verified alike. ``verified`` and ``violated`` are judged against the latency that was
promised before measuring: the user's bound, or else the predictor's 95 % upper bound. Where networks were retrained,
these are verified, with their own weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nas.core.arch import as_genes
from nas.core.cost_estimate import DurationRange, StageCost, average_duration
from nas.core.device import Measurement, NotMeasuredYet
from nas.core.events import (
    Candidate,
    ClassRecall,
    Evaluated,
    Event,
    Measured,
    Origin,
    Progress,
    SearchState,
    StageFinished,
    StageResults,
    Warned,
    fold,
)
from nas.core.metrics import METRICS
from nas.core.ports import Problem, Resources, TargetDevice
from nas.core.references import is_of_another_space, reference_archs
from nas.core.spec import SearchSpec
from nas.core.tasks import Task
from nas.explorers.final_choice import shrunk_losses
from nas.stages.cost_estimate import estimate_measuring, sample_archs, scoring_s, verified_range
from nas.stages.fronts import front_of, front_summary, guiding_metric, state_on
from nas.stages.precision import exported_model, score_exported
from nas.stages.results import VerifyResult
from nas.stages.scores import measured_by
from nas.stages.subnets import Subnets, load_subnets

ORIGINS: tuple[Origin, ...] = ("search", "baseline")
COMPARED: tuple[Origin, ...] = (*ORIGINS, "reference")


@dataclass(frozen=True)
class VerifyStage:
    """Measures up to ``spec.budget.verified`` networks of each origin, by fronts of rising rank."""

    group: int = 12
    name: ClassVar[str] = "verify"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Networks that were measured before a restart are not measured again."""
        subnets = load_subnets(problem, resources, state)
        verifiable = to_verify(problem, state, problem.spec.budget.verified)
        measurable = [m for m in problem.targets if m.profile.measurable]
        due = {
            c.candidate.key: [m.name for m in measurable if m.name in c.devices and not _measured(c, m)]
            for c in verifiable
        }
        tested = problem.spec.task.tested
        todo = [c.candidate for c in verifiable if due[c.candidate.key] or tested not in c.candidate.metrics]
        total = sum(max(1, sum(m.name in c.devices for m in measurable)) for c in verifiable)
        for event in measure_and_verify(self.name, problem, resources, subnets, todo, due, total, self.group):
            state = fold(state, event)
            yield event
        for member in problem.targets:
            if not member.profile.measurable:
                yield Warned(
                    self.name,
                    f"nothing can be measured on device {member.name!r}, of which only figures are known: latencies "
                    "stay predicted, and no network is called verified" + (" on it" if problem.fleet else ""),
                )
        fleet = {m.name: VerifyResult(measured=m.profile.measurable) for m in problem.fleet}
        result = VerifyResult(measured=len(measurable) == len(problem.targets), fleet=fleet)
        ended = replace(state, finished={**state.finished, self.name: result.to_json()})
        if None in problem.spec.views:
            result = _counted(result, problem.spec, ended, None)
        else:
            fleet = {name: _counted(part, problem.spec, ended, name) for name, part in fleet.items()}
            result = replace(fleet[problem.spec.device], fleet=fleet)
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Networks that are tested and exported, and a small group that is measured."""
        clock = resources.clock
        started_at = clock()
        subnets = load_subnets(problem, resources, state, untrained_will_do=True)
        total = DurationRange.exact(clock() - started_at)
        archs, macs = sample_archs(problem.space)
        models: dict[int, bytes] = {}

        def seconds_of(i: int) -> float:
            tested_s, module = scoring_s(subnets, archs[i], problem.data.test, clock)
            started_at = clock()
            models[i] = exported_model(subnets, module, archs[i])
            return tested_s + clock() - started_at

        tested = average_duration(macs.tolist(), seconds_of)
        sample_rows = [*models][:3]
        named = {archs[i].id: models[i] for i in sample_rows}
        min_networks, max_networks = (len(ORIGINS) * n for n in verified_range(problem))
        network_duration = tested.span
        for member in problem.targets:
            measured = estimate_measuring(named, member.profile, resources.measure, clock)
            share = 1 / len(problem.spec.views)  # what is on the front of one device is measured on that one only
            network_duration += (measured.per_network + DurationRange.exact(measured.begin_s / self.group)) * share
        references = len(reference_archs(problem.spec, problem.space))
        total += DurationRange(
            network_duration.low_s * (min_networks + references),
            network_duration.seconds * (max_networks + references),
            network_duration.high_s * (max_networks + references),
        )
        note = "the noise of the device decides how long each takes"
        return StageCost.of(self.name, total, max_networks + references, tested.count, "networks", note)


def measure_and_verify(
    stage: str,
    problem: Problem,
    resources: Resources,
    subnets: Subnets,
    todo: Sequence[Candidate],
    due: Mapping[tuple[str, str], Sequence[str]],
    total: int,
    group: int,
) -> Iterator[Event]:
    """Tests networks and measures each on the devices where it is ``due``, in groups; they are the last of ``total``.
    What was refused is measured once more at the end, when the machine may be quieter. Raises NotMeasuredYet once all
    devices elsewhere were asked for a group."""
    refused: list[tuple[Candidate, TargetDevice, bytes]] = []
    unit = "networks" if not problem.fleet else "measurements"
    done = total - sum(max(1, len(due[p.key])) for p in todo)
    for i in range(0, len(todo), group):
        together = todo[i : i + group]
        models: dict[tuple[str, str], bytes] = {}
        tested = []
        for p in together:
            module = subnets.cut(p.arch, p.origin)
            in_float32 = problem.spec.precision == "float32"
            model = exported_model(subnets, module, p.arch) if due[p.key] or not in_float32 else b""
            tested_split = problem.data.test
            test = (
                subnets.score(module, p.arch, tested_split)
                if in_float32
                else score_exported(problem, model, p.arch, tested_split)
            )
            tested.append(Candidate(p.arch, p.origin, measured_by(problem.spec.task, test, "test")))
            if test.by_class:
                yield ClassRecall(p.arch, test.by_class)
            if due[p.key]:
                models[p.key] = model
            yield Progress(stage, done, total, unit, message="exporting")
        yield Evaluated(tuple(tested))
        done += len(together) - len(models)
        not_measured: list[NotMeasuredYet] = []
        for member in problem.targets:
            due_here = [p for p in together if member.name in due[p.key]]
            if not due_here:
                continue
            measurements = resources.measure(
                [models[p.key] for p in due_here],
                member.profile,
                [p.arch.id for p in due_here],
                [_or_nan(_promised_ms(problem, member, p)) for p in due_here],
            )
            try:
                for p, measurement in zip(due_here, measurements, strict=True):
                    yield _measured_event(problem, member, p, measurement)
                    if measurement.refused is not None:
                        refused.append((p, member, models[p.key]))
                    done += 1
                    yield Progress(stage, done, total, unit, message="measuring")
            except NotMeasuredYet as missing:
                not_measured.append(missing)
        if not_measured:
            raise NotMeasuredYet.on_all(not_measured)
        if not models:
            yield Progress(stage, done, total, unit, message="testing")
    for p, member, model in refused:
        yield Progress(stage, done, total, unit, message="measuring again")
        promised_ms = _promised_ms(problem, member, p)
        [measurement] = resources.measure([model], member.profile, [p.arch.id], [_or_nan(promised_ms)])
        yield _measured_event(problem, member, p, measurement)
        if measurement.refused is not None:
            on = f" on {member.name}" if problem.fleet else ""
            yield Warned(stage, f"network {p.arch.id} was not measured{on}: {measurement.refused}")


@dataclass(frozen=True)
class VerifiableCandidate:
    """A network to verify, on ``devices``."""

    candidate: Candidate
    devices: tuple[str, ...]


def to_verify(problem: Problem, state: SearchState, n: int) -> list[VerifiableCandidate]:
    """The networks that are worth measuring, up to ``n`` of each origin for every front, each on the devices of the
    fronts that it may be part of; and all reference networks, on all devices. Before retraining, without the parent of
    a user's space, which is trained."""
    devices: dict[tuple[str, str], tuple[str, ...]] = {}
    for view in problem.spec.views:
        problem_on_view, state_on_view = (problem, state) if view is None else (problem.on(view), state_on(state, view))
        for origin in ORIGINS:
            for p in candidates(problem_on_view, state_on_view, origin, n):
                devices[p.key] = (*devices.get(p.key, ()), *problem_on_view.spec.devices)
    devices |= {p.key: tuple(m.name for m in problem.targets) for p in _references(problem, state)}
    return [VerifiableCandidate(state.candidates[key], names) for key, names in devices.items()]


def _references(problem: Problem, state: SearchState) -> list[Candidate]:
    references = state.of("reference")
    if problem.spec.retrain is None:
        return references
    if "retrain" in state.finished:
        return [p for p in references if problem.spec.task.trained in p.metrics]
    return [p for p in references if p.arch.genes != problem.space.pretrained_genes]


def candidates(problem: Problem, state: SearchState, origin: Origin, n: int) -> list[Candidate]:
    """The networks of one origin that are worth measuring: its estimated front, then the front of what remains, and so
    on, until ``n``. Estimates are shrunk by their fitted noise (``nas.explorers.final_choice``). Measured values play
    no part, so a restart chooses the same. After retraining, only networks that were retrained are left, and what they
    have reached stands for what was estimated."""
    points = state.of(origin)
    if "retrain" in state.finished:
        points = [p for p in points if problem.spec.task.trained in p.metrics]
    ranked: list[Candidate] = []
    before = dict(unverified(state))
    if "retrain" in before:  # zero-cost proxies have done what they can
        before.pop("proxies", None)
    trained = problem.spec.task if "retrain" in state.finished else None
    estimates = [_estimates(p, trained) for p in points]
    if trained is None:
        estimates = _shrunk(problem, guiding_metric(before) or problem.spec.task.estimated, points, estimates)
    remaining = {
        p.key: Candidate(p.arch, p.origin, metrics, promised_ms=p.promised_ms, extrapolated=p.extrapolated)
        for p, metrics in zip(points, estimates, strict=True)
    }
    while remaining and len(ranked) < n:
        layer = front_of(problem.spec, SearchState(finished=before, candidates=remaining))
        members = layer.members if origin == "search" else layer.baseline
        if not members:
            break
        members = measured_first(members, n - len(ranked))
        ranked += [state.candidates[p.key] for p in members]
        remaining = {k: p for k, p in remaining.items() if k not in {m.key for m in members}}
    return ranked


def measured_first(points: Sequence[Candidate], n: int) -> tuple[Candidate, ...]:
    """Up to ``n`` of the points: those outside the domain of the predictor, then others, each evenly by rank."""
    outside = tuple(p for p in points if p.extrapolated)
    inside = tuple(p for p in points if not p.extrapolated)
    first = thin(outside, n)
    return first + thin(inside, n - len(first))


def thin(points: tuple[Candidate, ...], n: int) -> tuple[Candidate, ...]:
    """Up to ``n`` of the points, evenly by rank, both ends kept."""
    if n == 1 or len(points) <= n:
        return points[:n]
    return tuple(points[round(i * (len(points) - 1) / (n - 1))] for i in range(n))


def _measured(verifiable: VerifiableCandidate, member: TargetDevice) -> bool:
    on = verifiable.candidate.devices.get(member.name)
    return (on if on is not None else verifiable.candidate).measurement is not None


def _measured_event(problem: Problem, member: TargetDevice, p: Candidate, measurement: Measurement) -> Measured:
    promised_ms = _promised_ms(problem, member, p)
    return Measured(p.arch, p.origin, measurement, promised_ms, member.name if problem.fleet else None)


def _promised_ms(problem: Problem, member: TargetDevice, p: Candidate) -> float | None:
    """The bound on the device, or else the predictor's upper bound there; references need not meet the bound, and
    nothing is promised of those of other spaces."""
    if is_of_another_space(problem, p.arch):
        return None
    upper_ms = p.devices[member.name].upper_ms if problem.fleet else p.metrics["upper_ms"]
    if p.origin == "reference":
        return upper_ms
    return problem.spec.bound_on(member.name) or upper_ms


def _or_nan(promised_ms: float | None) -> float:
    """NaN, which no interval holds, where nothing was promised."""
    return math.nan if promised_ms is None else promised_ms


def _counted(result: VerifyResult, spec: SearchSpec, state: SearchState, view: str | None) -> VerifyResult:
    front = front_of(spec, state, device=view)
    tried = [p for p in state.of("search") if p.measurement or any(d.measurement for d in p.devices.values())]
    on_view = tried if view is None else [p.on(view) for p in tried]
    marks = [p.status for p in on_view if view is None or p.measurement is not None]
    return replace(
        result,
        verified=marks.count("verified"),
        violated=marks.count("violated"),
        unverified=marks.count("unverified"),
        fallback=marks.count("fallback"),
        **vars(front_summary(front)),
    )


def _estimates(point: Candidate, retrained_for: Task | None) -> dict[str, float]:
    unmeasured = {k: v for k, v in point.metrics.items() if METRICS[k].kind != "measured"}
    if retrained_for is None:
        return unmeasured
    return {**unmeasured, retrained_for.estimated: unmeasured[retrained_for.trained]}


def _shrunk(
    problem: Problem, metric: str, points: Sequence[Candidate], estimates: Sequence[dict[str, float]]
) -> list[dict[str, float]]:
    """The estimates with the metric that guides the search drawn towards what networks like each other suggest."""
    sign = -1.0 if METRICS[metric].goal == "max" else 1.0
    rows = [i for i, metrics in enumerate(estimates) if metric in metrics]
    genes_NG, losses_N = as_genes([points[i].arch for i in rows]), sign * np.array([estimates[i][metric] for i in rows])
    shrunk = dict(zip(rows, (sign * shrunk_losses(problem.space, genes_NG, losses_N)).tolist(), strict=True))
    return [{**metrics, metric: shrunk[i]} if i in shrunk else metrics for i, metrics in enumerate(estimates)]


def unverified(state: SearchState) -> StageResults:
    """The results of stages as they were before any network was measured."""
    return {k: v for k, v in state.finished.items() if k not in ("verify", "refine")}
