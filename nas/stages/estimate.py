"""Estimate before training whether networks can meet the bounds, and between which values the metrics of the space lie.

``profile_space`` answers both when a search is submitted and when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nas.core.arch import LISTABLE, Floats, Genes, choice_counts, every, neighbours, sample, space_size
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.errors import HwnasError, InfeasibleBound, InvalidSpec
from nas.core.events import Candidate, Event, SearchState, StageFinished
from nas.core.metrics import BOUND_METRIC, COSTS, METRICS, attainable
from nas.core.ports import LatencyPredictor, Problem, Resources, SearchSpace
from nas.core.spec import SearchSpec
from nas.fleet import latency_metrics
from nas.stages.results import EstimateResult

SAMPLED = 20_000


@dataclass(frozen=True, eq=False)
class SpaceProfile:
    """What is known of the networks of a space without training; latencies only if there is a predictor.

    ``values``: of ``SAMPLED`` random networks, shape (SAMPLED,) per metric. ``ranges``: over these and the two extreme
    ones. ``lowest``: reached from the best of them by changing one decision at a time. ``networks``: how many distinct
    ones there are, None where they are too many to count.
    """

    space: str
    values: Mapping[str, Floats]
    ranges: Mapping[str, tuple[float, float]]
    lowest: Mapping[str, float]
    networks: int | None


def profile_space(space: SearchSpace, predictor: LatencyPredictor | None) -> SpaceProfile:
    """Looks at random networks, always the same ones, and at the smallest and the largest one."""

    def values_of(genes_NG: Genes) -> dict[str, Floats]:
        values = dict(space.costs(genes_NG))
        if predictor is not None:
            values |= latency_metrics(predictor, space, genes_NG)
        return values

    counts = choice_counts(space.decisions)
    extremes = np.stack([np.zeros_like(counts), counts - 1])
    random_NG = sample(space.decisions, np.random.default_rng(0), SAMPLED)
    genes_NG = space.canonical(np.concatenate([random_NG, extremes]))
    values = values_of(genes_NG)
    lowest = {}
    for metric in (*BOUND_METRIC.values(), "upper_share"):
        if metric in values:
            start_G = genes_NG[int(values[metric].argmin())]
            lowest[metric] = _lowest(space, lambda some_NG, m=metric: values_of(some_NG)[m], start_G)  # type: ignore[misc]
    networks = None
    if space_size(space.decisions) <= LISTABLE:
        networks = len(np.unique(space.canonical(every(space.decisions)), axis=0))
    return SpaceProfile(
        space=space.name,
        values={name: v[:SAMPLED] for name, v in values.items()},
        ranges={name: (float(v.min()), float(v.max())) for name, v in values.items()},
        lowest=lowest,
        networks=networks,
    )


def unsupported_objectives(spec: SearchSpec, profile: SpaceProfile) -> list[HwnasError]:
    """An error for each objective that neither the search space nor the device reports. Latency is predicted by the
    device's predictor."""
    space = (
        f"search space {profile.space} does not report this metric: expected {{}} among its costs, "
        f"got {', '.join(profile.values)}"
    )
    device = (
        f"device {spec.device!r} does not report this metric for this space: expected one that was added from a table "
        "with a column energy_mj"
    )
    return [
        InvalidSpec(f"objective {o.name}: {device if o.name == 'energy' else space.format(BOUND_METRIC[o.name])}")
        for o in spec.objectives
        if o.name in COSTS and o.name != "latency" and BOUND_METRIC[o.name] not in profile.values
    ]


def infeasible_bounds(spec: SearchSpec, profile: SpaceProfile) -> list[HwnasError]:
    """Why no network can meet the bounds, naming the lowest reachable values; empty if some can."""
    problems: list[HwnasError] = []
    if spec.by_share and (lowest := profile.lowest.get("upper_share")) is not None and lowest > 100:
        problems.append(
            InfeasibleBound(
                f"no network of {profile.space} meets the bounds on latency on all of {', '.join(spec.devices)}: at "
                f"the least, {attainable(lowest)} % of a bound is reached on the worst of them"
            )
        )
    for objective, metric in _bounded_metrics(spec).items():
        bound, lowest, unit = spec.bound(objective), profile.lowest.get(metric), f" {METRICS[metric].unit}".rstrip()
        if bound is not None and lowest is not None and lowest > bound:
            where = f" on {' and '.join(spec.devices)}" if objective == "latency" else ""
            problems.append(
                InfeasibleBound(
                    f"no network of {profile.space} meets the bound {bound:g}{unit} on {objective}: the lowest "
                    f"reachable value{where} is {attainable(lowest)}{unit}"
                )
            )
    task = spec.task
    if task.maximised and (least := spec.bound(task.objective)) is not None and least > 100:
        problems.append(
            InfeasibleBound(f"no network has {least:g} % {task.quality.title}: the highest reachable value is 100 %")
        )
    return problems


def infeasible_on_devices(
    spec: SearchSpec, profile: SpaceProfile, by_device: Mapping[str, SpaceProfile]
) -> list[HwnasError]:
    """``infeasible_bounds`` on every device of a fleet, and on all of them together where they share a front."""
    problems = [e for name, part in by_device.items() for e in infeasible_bounds(spec.on(name), part)]
    if None in spec.views and not problems:
        problems = infeasible_bounds(spec, profile)
    return [*{str(e): e for e in problems}.values()]  # bounds on params or MACs are the same everywhere


def exceeds_space(spec: SearchSpec, profile: SpaceProfile, inherited: int) -> list[HwnasError]:
    """Why the budget cannot be spent in a small space. ``inherited``: networks of one origin that are scored already;
    none is scored twice."""
    budget = spec.budget.evaluations
    if profile.networks is None or budget <= (remaining := max(0, profile.networks - inherited)):
        return []
    inherited_note = f", of which {inherited} are scored already" if inherited else ""
    return [
        InvalidSpec(
            f"budget.evaluations: expected at most {remaining}, since {profile.space} has {profile.networks} "
            f"networks{inherited_note}; got {budget}"
        )
    ]


def feasible_share(spec: SearchSpec, profile: SpaceProfile) -> float:
    """Share of random networks that meet all bounds on what is known of them."""
    feasible_N = np.ones(SAMPLED, dtype=bool)
    if spec.by_share and "upper_share" in profile.values:
        feasible_N &= profile.values["upper_share"] <= 100
    for objective, metric in _bounded_metrics(spec).items():
        bound = spec.bound(objective)
        if bound is not None and metric in profile.values:
            feasible_N &= profile.values[metric] <= bound
    return float(feasible_N.mean())


@dataclass(frozen=True)
class EstimateStage:
    """Refuses a search whose bounds no network can meet, and records the reference point for hypervolumes."""

    name: ClassVar[str] = "estimate"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Raises InfeasibleBound, naming the lowest reachable value, or InvalidSpec for a budget beyond the space and
        for objectives that it does not report."""
        spec = problem.spec
        profile = profile_space(problem.space, problem.predictor)
        by_device = {m.name: profile_space(problem.space, m.predictor) for m in problem.fleet}
        inherited = most_inherited(problem.inherited)
        refusals = [*unsupported_objectives(spec, profile), *infeasible_on_devices(spec, profile, by_device)]
        for error in [*refusals, *exceeds_space(spec, profile, inherited)]:
            raise error
        fleet = {name: _result(problem, spec.on(name), part) for name, part in by_device.items()}
        result = replace(_result(problem, spec, profile), sampled=SAMPLED, fleet=fleet)
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """It is run in full, without a warm-up, since the search has none either."""
        started_at = resources.clock()
        for predictor in (problem.predictor, *(m.predictor for m in problem.fleet)):
            profile_space(problem.space, predictor)
        return StageCost.of(self.name, DurationRange.exact(resources.clock() - started_at), 1, 1)


def _bounded_metrics(spec: SearchSpec) -> dict[str, str]:
    return {o: metric for o, metric in BOUND_METRIC.items() if o != "latency" or not spec.by_share}


def _result(problem: Problem, spec: SearchSpec, profile: SpaceProfile) -> EstimateResult:
    """The result for a search, or for one device of its fleet."""
    metric_by_objective = BOUND_METRIC | ({"latency": "upper_share"} if spec.by_share else {})
    return EstimateResult(
        reference={
            spec.task.objective: spec.task.guess(problem.data.val.labels, problem.data.shape.classes),
            **{o: profile.ranges[metric][1] for o, metric in metric_by_objective.items() if metric in profile.ranges},
        },
        ranges=profile.ranges,
        feasible_share=feasible_share(spec, profile),
    )


def most_inherited(candidates: Sequence[Candidate]) -> int:
    """How many networks are known of the origin of which most are."""
    origins = [p.origin for p in candidates]
    return max((origins.count(origin) for origin in set(origins)), default=0)


def _lowest(space: SearchSpace, value: Callable[[Genes], Floats], start_G: Genes) -> float:
    lowest = float(value(start_G[None])[0])
    while True:
        near_NG = space.canonical(neighbours(space.decisions, start_G.tolist()))
        values = value(near_NG)
        if len(values) == 0 or values.min() >= lowest:
            return lowest
        lowest, start_G = float(values.min()), near_NG[int(values.argmin())]
