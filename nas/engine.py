"""Running a search: its stages in order, as one iterator of events; or estimating its cost.

Imports no torch before stages are made.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace

from nas.core import registry
from nas.core.cost_estimate import COST_STAGE, CostEstimate, StageCost
from nas.core.device import NotMeasuredYet
from nas.core.errors import DataChanged, InvalidSpec, StorageError
from nas.core.events import (
    Checkpoint,
    Concluded,
    DataRead,
    Event,
    Progress,
    SearchState,
    StageFinished,
    StageStarted,
    Warned,
    fold,
)
from nas.core.plugins import check_task
from nas.core.ports import Problem, Resources, Stage
from nas.core.spec import SearchSpec
from nas.peak_memory import peak_memory_bytes, reset_peak_memory
from nas.spaces.restricted import networks_of, trained_by_gradient
from nas.stages.conclusions import conclude


def stages_of(problem: Problem) -> tuple[Stage, ...]:
    """The stages of a search. Raises UnknownName for an unknown strategy, and what the strategy raises."""
    strategy = registry.load_strategy(problem.spec.strategy.name)
    check_task(problem.spec, problem.space, strategy)
    return strategy.stages(problem)


def stage_names(spec: SearchSpec) -> tuple[str, ...]:
    """The names of the stages of a search, without torch.

    Raises UnknownName for an unknown strategy, and InvalidSpec for wrong parameters and for retraining with a strategy
    that has no stage or no weights for it.
    """
    names = registry.load_strategy(spec.strategy.name).stage_names(spec)
    if spec.retrain is not None and "retrain" not in names:
        raise InvalidSpec(
            f"retrain: expected a strategy that retrains networks, got {spec.strategy.name!r}: {', '.join(names)}"
        )
    _require_weights(spec, names)
    return names


def _require_weights(spec: SearchSpec, names: tuple[str, ...]) -> None:
    """Raises InvalidSpec where retraining needs the weights of a supernet and there is none."""
    if spec.retrain is None or spec.supernet is not None or spec.space.model is not None or "train" in names:
        return
    if spec.inherits_weights or spec.retrain.teacher == "largest":
        field = "start: inherited" if spec.inherits_weights else "teacher: largest"
        raise InvalidSpec(
            f"retrain.{field} needs a trained supernet: expected a strategy that trains one, or a finished search "
            f"under 'supernet'; got {spec.strategy.name!r}, whose stages are {', '.join(names)}"
        )


def run_search(problem: Problem, stages: Sequence[Stage], resources: Resources, state: SearchState) -> Iterator[Event]:
    """Yields the events of every stage that ``state`` does not know as finished.

    A stage that ends without a ``StageFinished`` of its own gets one with an empty result. Raises DataChanged before
    any stage where the data are not those that the search, or the one whose supernet it uses, has read.
    """
    require_same_data(problem, state)
    problem = _of_trained_networks(problem)
    if problem.spec.task.parent_labels:
        problem = yield from _labelled(problem, resources, state)
    for position, stage in enumerate(stages):
        if stage.name in state.finished:
            continue
        started_at = resources.clock()
        started = StageStarted(stage.name, position, len(stages))
        state = fold(state, started)
        yield started
        for event in _account_for_data(stage.name, problem, state):
            state = fold(state, event)
            yield event
        result = {}
        for event in stage.run(problem, resources, state):
            if isinstance(event, StageFinished):
                result = dict(event.result)
                continue
            state = fold(state, event)
            yield event
        finished = StageFinished(stage.name, resources.clock() - started_at, result)
        state = fold(state, finished)
        yield finished
    if not state.conclusions and (conclusions := conclude(problem, state)):
        yield Concluded(conclusions)


def estimate_search_cost(
    problem: Problem, stages: Sequence[Stage], resources: Resources, state: SearchState
) -> Iterator[Event]:
    """Times a few steps of every stage that ``state`` does not know as finished. Yields the events of a stage
    ``price``, whose result is a ``CostEstimate`` as JSON. Nothing of the search is done or kept.

    Raises what the stages raise: what cannot be timed here could not be run here either.
    """
    require_same_data(problem, state)
    problem = _of_trained_networks(problem)
    if problem.spec.task.parent_labels:
        from nas.stages.parent_labels import with_parent_labels  # imports torch

        problem = with_parent_labels(problem, resources.torch_device)
    started_at = resources.clock()
    yield StageStarted(COST_STAGE, 0, 1)
    costs: list[StageCost] = []
    for stage in stages:
        yield Progress(COST_STAGE, len(costs), len(stages), "stages", message=f"timing {stage.name}")
        costs.append(_price(stage, problem, resources, state))
    yield Progress(COST_STAGE, len(costs), len(stages), "stages")
    result = asdict(total_cost(problem, resources.worker, costs))
    yield StageFinished(COST_STAGE, resources.clock() - started_at, result)


def _of_trained_networks(problem: Problem) -> Problem:
    """The problem without networks that a differentiable search does not train, such as those of other resolutions.
    Raises InvalidSpec as ``trained_by_gradient``."""
    if not registry.load_strategy(problem.spec.strategy.name).uses_relaxation(problem.spec):
        return problem
    space = trained_by_gradient(problem.space)
    return replace(problem, space=space, inherited=networks_of(space, problem.inherited))


def _labelled(problem: Problem, resources: Resources, state: SearchState) -> Generator[Event, None, Problem]:
    """The problem with the labels that a user's model makes, once for all attempts at a search. Raises as
    ``parent_labels``."""
    from nas.stages.parent_labels import ParentLabels, parent_labels  # imports torch

    name = ParentLabels.checkpoint
    if (checkpoint := state.checkpoints.get(name)) is not None:
        labels = ParentLabels.load(resources.blobs, checkpoint.blob)
    else:
        labels = parent_labels(problem, resources.torch_device)
        try:
            yield Checkpoint(name, len(problem.data.train), labels.store(resources.blobs))
        except StorageError as error:
            yield Warned(name, f"the outputs of the model were not kept, a restart makes them again: {error}")
    return replace(problem, data=labels.on(problem.data))


def total_cost(problem: Problem, worker: str, costs: Sequence[StageCost]) -> CostEstimate:
    """The cost of all stages together. Sums leave out the stages that cannot be estimated."""
    requested = problem.spec.resources
    seconds = sum(c.seconds or 0.0 for c in costs)
    return CostEstimate(
        worker=worker,
        seconds=seconds,
        low_s=sum(c.low_s or 0.0 for c in costs),
        high_s=sum(c.high_s or 0.0 for c in costs),
        gpu_hours=seconds * requested.gpus / 3600,
        cpu_hours=seconds * requested.cpus / 3600,
        memory_bytes=max((c.memory_bytes or 0 for c in costs), default=0),
        evaluations=problem.spec.budget.evaluations,
        confidence="partial" if any(c.seconds is None for c in costs) else "measured",
        stages=tuple(costs),
        gpu_memory_bytes=max((c.gpu_memory_bytes for c in costs if c.gpu_memory_bytes is not None), default=None),
    )


def require_same_data(problem: Problem, state: SearchState) -> None:
    """Raises DataChanged where other images, labels or splits were read before: images that have trained the supernet
    could be among the test images now."""
    before = state.data.content_hash if state.data is not None else None
    check_same_data(before, problem.data.content_hash, "when this search began")
    check_same_data(problem.supernet_data, problem.data.content_hash, "by the search of the supernet")


def check_same_data(recorded: str | None, present: str, when: str) -> None:
    """Raises DataChanged for content hashes that differ; None is one that was not recorded."""
    if recorded is not None and recorded != present:
        raise DataChanged(
            f"the data have changed: expected those that were read {when} (content hash {recorded[:12]}), got others "
            f"({present[:12]}); restore the files, or submit a search that trains a supernet of its own"
        )


def _account_for_data(stage: str, problem: Problem, state: SearchState) -> Iterator[Event]:
    """The account of the data, once in a search."""
    if state.data is not None:
        return
    account = replace(problem.data.account, content_hash=problem.data.content_hash)
    yield DataRead(account)
    warnings = account.warnings
    if problem.supernet_blob is not None and problem.supernet_data is None:
        warnings += ("data: it is not recorded which images the reused supernet was trained on",)
    for warning in warnings:
        yield Warned(stage, warning)


def _price(stage: Stage, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
    if stage.name in state.finished:
        return StageCost.zero(stage.name, "finished already")
    reset_peak_memory(resources.torch_device)
    try:
        cost = stage.estimate_cost(problem, resources, state)
    except NotMeasuredYet as not_measured:
        device = not_measured.profile.name
        return StageCost.unknown(stage.name, f"the agent of device {device!r} measures for it, at a pace of its own")
    device = resources.torch_device
    cost = replace(cost, memory_bytes=cost.memory_bytes or peak_memory_bytes("cpu"))
    return cost if device == "cpu" else replace(cost, gpu_memory_bytes=peak_memory_bytes(device))
