"""Running a search: its stages in order, as one iterator of events; or only telling what that will take.

Imports no torch before stages are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from nas.core import registry
from nas.core.cost_estimate import CostEstimate, StageCost
from nas.core.errors import InvalidSpec, NotMeasuredYet
from nas.core.events import Event, Progress, SearchState, StageFinished, StageStarted, fold
from nas.core.ports import Problem, Resources, Stage
from nas.core.spec import SearchSpec
from nas.peak_memory import peak_memory_bytes, reset_peak_memory

COST_STAGE = "price"  # the one stage of a dry run


def stages_of(problem: Problem) -> tuple[Stage, ...]:
    """The stages of a search: those of its strategy, with learning after verification and, where the spec says so,
    retraining before it.

    Raises what the strategy raises, and InvalidSpec for retraining what is never verified.
    """
    stages: tuple[Stage, ...] = registry.load("nas.strategies", problem.spec.strategy.name)(problem)
    names = [stage.name for stage in stages]
    if problem.spec.retrain is None and "verify" not in names:
        return stages
    from nas.stages.refine import RefineStage
    from nas.stages.retrain import RetrainStage

    at = _at_verify(problem.spec, names)
    before = (RetrainStage(),) if problem.spec.retrain is not None else ()
    return (*stages[:at], *before, stages[at], RefineStage(), *stages[at + 1 :])


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of the stages as far as the strategy tells them, in a tuple or by a function of its parameters.

    Raises UnknownName for a strategy that is none, and InvalidSpec for retraining what is never verified.
    """
    told = getattr(registry.load("nas.strategies", spec.strategy.name), "stage_names", ())
    names: tuple[str, ...] = tuple(told(spec.strategy.params) if callable(told) else told)
    if not names or (spec.retrain is None and "verify" not in names):
        return names
    at = _at_verify(spec, names)
    before = ("retrain",) if spec.retrain is not None else ()
    return (*names[:at], *before, "verify", "learn", *names[at + 1 :])


def run_search(problem: Problem, stages: Sequence[Stage], resources: Resources, state: SearchState) -> Iterator[Event]:
    """Yields the events of every stage that ``state`` does not know as finished.

    A stage that ends without a ``StageFinished`` of its own gets one with an empty result.
    """
    for position, stage in enumerate(stages):
        if stage.name in state.finished:
            continue
        begun = resources.clock()
        started = StageStarted(stage.name, position, len(stages))
        state = fold(state, started)
        yield started
        result = {}
        for event in stage.run(problem, resources, state):
            if isinstance(event, StageFinished):
                result = dict(event.result)
                continue
            state = fold(state, event)
            yield event
        finished = StageFinished(stage.name, resources.clock() - begun, result)
        state = fold(state, finished)
        yield finished


def estimate_search_cost(
    problem: Problem, stages: Sequence[Stage], resources: Resources, state: SearchState
) -> Iterator[Event]:
    """Times a few steps of every stage that ``state`` does not know as finished. Yields the events of a stage
    ``price``, whose result is a ``CostEstimate`` as JSON. Nothing of the search is done or kept.

    Raises what the stages raise: what cannot be timed here could not be run here either.
    """
    begun = resources.clock()
    yield StageStarted(COST_STAGE, 0, 1)
    costs: list[StageCost] = []
    for stage in stages:
        yield Progress(COST_STAGE, len(costs), len(stages), "stages", message=f"timing {stage.name}")
        costs.append(_price(stage, problem, resources, state))
    yield Progress(COST_STAGE, len(costs), len(stages), "stages")
    result = asdict(total_cost(problem, resources.worker, costs))
    yield StageFinished(COST_STAGE, resources.clock() - begun, result)


def total_cost(problem: Problem, worker: str, costs: Sequence[StageCost]) -> CostEstimate:
    """The cost of all stages together. Sums leave out the stages that cannot be estimated."""
    wanted = problem.spec.resources
    seconds = sum(c.seconds or 0.0 for c in costs)
    return CostEstimate(
        worker=worker,
        seconds=seconds,
        low_s=sum(c.low_s or 0.0 for c in costs),
        high_s=sum(c.high_s or 0.0 for c in costs),
        gpu_hours=seconds * wanted.gpus / 3600,
        cpu_hours=seconds * wanted.cpus / 3600,
        memory_bytes=max((c.memory_bytes or 0 for c in costs), default=0),
        evaluations=problem.spec.budget.evaluations,
        confidence="partial" if any(c.seconds is None for c in costs) else "measured",
        stages=tuple(costs),
    )


def _at_verify(spec: SearchSpec, names: Sequence[str]) -> int:
    if "verify" not in names:
        raise InvalidSpec(
            f"retrain: expected a strategy that verifies networks, got {spec.strategy.name!r}: {', '.join(names)}"
        )
    return list(names).index("verify")


def _price(stage: Stage, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
    if stage.name in state.finished:
        return StageCost.nothing(stage.name, "finished already")
    if not hasattr(stage, "estimate_cost"):
        return StageCost.unknown(stage.name, "this stage cannot say what it takes, so sums leave it out")
    reset_peak_memory(resources.torch_device)
    try:
        cost = stage.estimate_cost(problem, resources, state)
    except NotMeasuredYet as elsewhere:
        device = elsewhere.profile["name"]
        return StageCost.unknown(stage.name, f"the agent of device {device!r} measures for it, at a pace of its own")
    return replace(cost, memory_bytes=cost.memory_bytes or peak_memory_bytes(resources.torch_device))
