"""Training the subspaces of a divided supernet, each with checkpoints of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from nas.core.cost_estimate import DurationRange, StageCost, mean_seconds
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Traced, Warned, fold
from nas.core.ports import Problem, Resources, Stage
from nas.stages.bilevel import BilevelStage
from nas.stages.gradient_runs import GradientRun, dump_runs, load_run
from nas.stages.gradient_sub_supernet import GradientSubSupernetStage
from nas.stages.results import SplitResult, SubspaceRun, SubSupernetsResult, TrainResult
from nas.stages.sub_supernet import SubSupernetStage
from nas.training.fewshot.halving import better_half, rung_epochs, trained_share
from nas.training.fewshot.partition import SpacePartition, subspace_sample
from nas.training.fewshot.routed_supernet import split_supernet
from nas.training.gradient.options import DartsParams
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, Training
from nas.training.state import TrainState
from nas.training.weights import Weights


@dataclass(frozen=True)
class SubSupernetsStage:
    """Trains every subspace by ``recipe``, all at once where ``Resources.run_parallel`` says how, else one after
    another.

    ``compare``: for comparison, the undivided supernet is trained on as well, for as many steps as all subspaces
    together. With ``options`` each subspace is searched by gradient instead, and the networks that were found are kept
    beside the weights; there is nothing to compare then. ``halving``: by validation accuracy of their relaxations, the
    worse half of the subspaces is trained no further, again and again until one is left."""

    recipe: SupernetRecipe
    max_subspaces: int
    checkpoint_s: float = 10.0
    compare: bool = False
    options: DartsParams | None = None
    halving: bool = False
    name: ClassVar[str] = "train"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Ends with the blob of the subspaces as one supernet. A subspace that is trained already is not trained
        again."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, TrainResult.reuse(problem.supernet_blob).to_json())
            return
        partition = SpacePartition.from_json(SplitResult.require(state.finished).tree, problem.space.decisions)
        if partition.size == 1:
            yield from self._undivided(self.max_subspaces)._run(problem, resources, state, partition)
        else:
            yield from self._run(problem, resources, state, partition)

    def _undivided(self, subspaces: int) -> SubSupernetsStage:
        """This stage for a space that stays whole: it trains for as many steps as ``subspaces`` would, and there is
        nothing to compare."""
        options = self.options
        if options is not None:
            options = options.model_copy(update={"epochs": options.epochs * subspaces})
        longer = tuple(replace(p, epochs=p.epochs * subspaces) for p in self.recipe.phases)
        return replace(self, recipe=replace(self.recipe, phases=longer), options=options, compare=False)

    def _run(
        self, problem: Problem, resources: Resources, state: SearchState, partition: SpacePartition
    ) -> Iterator[Event]:
        sub_supernet_stages = [self._sub_supernet_stage(subspace) for subspace in range(partition.size)]
        undivided = self._undivided_stage(partition.size)
        macs = [
            problem.space.costs(subspace_sample(partition, i, problem.space))["macs"].mean()
            for i in range(len(sub_supernet_stages))
        ]
        # The longest first, so that none of them is waited for.
        stages = [sub_supernet_stages[i] for i in np.argsort(macs)[::-1]]
        if undivided is not None:
            stages.insert(0, undivided)
        numbers = {stage.name: stage.subspace for stage in stages}
        done = dict.fromkeys(numbers, 0)
        for event in self._trained(stages, problem, resources, state):
            state = fold(state, event)
            if isinstance(event, Progress):
                done[event.stage] = event.done
                subspace = numbers[event.stage]
                message = (
                    "undivided, to compare" if subspace is None else f"subspace {subspace + 1} of {partition.size}"
                )
                total = event.total * (1 if subspace is None else partition.size) * (1 if undivided is None else 2)
                yield replace(event, stage=self.name, done=sum(done.values()), total=total, message=message)
                continue
            if isinstance(event, Checkpoint) and event.stage in done:
                done[event.stage] = event.step
            yield replace(event, stage=self.name) if isinstance(event, Traced) else event
        yield from self._finish(problem, resources, state, partition, sub_supernet_stages, undivided)

    def _finish(
        self,
        problem: Problem,
        resources: Resources,
        state: SearchState,
        partition: SpacePartition,
        stages: Sequence[SubSupernetStage | GradientSubSupernetStage],
        undivided: SubSupernetStage | None,
    ) -> Iterator[Event]:
        """Store what the stages of all subspaces, in their order, have trained as one supernet."""
        routed = split_supernet(problem.space, partition, problem.space.supernet(problem.spec.seed))
        runs: list[GradientRun] = []
        for stage, net in zip(stages, routed.sub_supernets, strict=True):
            weights = _checkpoint_weights(stage, resources, state)
            net.load_state_dict(weights["net"])
            runs += [load_run(weights["run"])] if "run" in weights else []
        tree = json.dumps(partition.as_json(problem.space.decisions))
        trained: Weights = {"net": routed.state_dict(), "partition": tree}
        if runs:
            trained["runs"] = dump_runs(runs)
        blob = resources.blobs.put(TrainState(0, 0, trained).to_bytes())
        steps = sum(state.checkpoints[stage.name].step for stage in stages)
        one_shot_blob = store_one_shot(undivided, resources, state) if undivided is not None else None
        result = SubSupernetsResult(
            supernet=blob,
            reused=False,
            steps=steps,
            subspaces=partition.size,
            one_shot=one_shot_blob,
            one_shot_steps=state.checkpoints[undivided.name].step if undivided is not None else None,
            runs=_runs(runs) if runs else None,
        )
        yield Checkpoint(self.name, steps, blob)
        yield StageFinished(self.name, 0.0, result.to_json())

    def _trained(
        self,
        stages: Sequence[SubSupernetStage | GradientSubSupernetStage],
        problem: Problem,
        resources: Resources,
        state: SearchState,
    ) -> Iterator[Event]:
        """The events of all stages, in rounds where they are halved."""
        run_parallel = resources.run_parallel or run_stages_sequentially
        ended: list[GradientSubSupernetStage] = []
        searches = [stage for stage in stages if isinstance(stage, GradientSubSupernetStage)]
        if self.options is None or not self.halving:
            yield from run_parallel(stages, problem, resources, state)
            return
        for rung in rung_epochs(len(searches), self.options.epochs):
            paused = [replace(stage, rung=rung) for stage in searches]
            for event in run_parallel(paused, problem, resources, state):
                state = fold(state, event)
                yield event
            if any(stage.rung_name not in state.checkpoints for stage in paused):
                break  # out of time: all have ended
            scores = [stage.accuracy_at_rung(problem, resources, state) for stage in paused]
            better = better_half(scores)
            worse = [i for i in range(len(searches)) if i not in better]
            ended += [replace(searches[i], ends=True) for i in worse]
            yield Warned(self.name, _halved(rung, searches, scores, worse))
            searches = [searches[i] for i in better]
        yield from run_parallel([*searches, *ended], problem, resources, state)

    def _sub_supernet_stage(self, subspace: int) -> SubSupernetStage | GradientSubSupernetStage:
        if self.options is not None:
            return GradientSubSupernetStage(subspace, self.options)
        return SubSupernetStage(subspace, self.recipe, self.checkpoint_s)

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Steps on random networks of the whole space, for as many subspaces as there may be, shared among as many
        cores or GPUs as may train at once, each subspace on its share of cores."""
        if problem.supernet_blob is not None:
            return StageCost.zero(self.name, "the supernet is trained already")
        if self.options is not None:
            workers = self._parallel_workers(problem, resources, self.max_subspaces)
            with _threads(max(1, torch.get_num_threads() // workers)):
                subspace_cost = BilevelStage(self.options).estimate_cost(problem, resources, state)
            assert subspace_cost.seconds is not None
            assert subspace_cost.low_s is not None
            assert subspace_cost.high_s is not None
            share = trained_share(self.max_subspaces, self.options.epochs) if self.halving else 1.0
            span = DurationRange(subspace_cost.low_s, subspace_cost.seconds, subspace_cost.high_s) * (
                share * _longest([1] * self.max_subspaces, workers)
            )
            return StageCost.of(self.name, span, subspace_cost.steps * self.max_subspaces, subspace_cost.timed, "steps")
        clock = resources.clock
        undivided = self._undivided_stage(self.max_subspaces)
        work = [self.max_subspaces] * (undivided is not None) + [1] * self.max_subspaces  # in lengths of a subspace
        workers = self._parallel_workers(problem, resources, len(work))
        with _threads(max(1, torch.get_num_threads() // workers)):
            started_at = clock()
            net = problem.space.supernet(problem.spec.seed).to(torch.device(resources.torch_device))
            pipeline = Pipeline.of(problem, resources.torch_device)
            still = replace(self.recipe, phases=tuple(replace(p, lr=0.0) for p in self.recipe.phases))
            training = Training(net, problem.space, problem.data, pipeline, still, problem.spec.seed)
            training.begin(0)
            total = DurationRange.exact(clock() - started_at) * len(work)
            steps = iter(range(10**6))
            training.step(0, next(steps))
            times = [mean_seconds(clock, lambda: training.step(0, next(steps)), at_least_s=0.0) for _ in range(4)]
        of_step = DurationRange(min(times), sum(times) / len(times), max(times))
        subspace_steps = sum(training.lengths)
        total += of_step * (subspace_steps * _longest(work, workers))
        return StageCost.of(self.name, total, subspace_steps * sum(work), len(times), "steps")

    def _parallel_workers(self, problem: Problem, resources: Resources, stages: int) -> int:
        requested = problem.spec.resources
        return min(requested.gpus or requested.cpus, stages) if resources.run_parallel is not None else 1

    def _undivided_stage(self, size: int) -> SubSupernetStage | None:
        if not self.compare or self.options is not None:
            return None
        longer = tuple(replace(p, epochs=p.epochs * size) for p in self.recipe.phases)
        return SubSupernetStage(None, replace(self.recipe, phases=longer), self.checkpoint_s)


def _halved(
    rung: int, searches: Sequence[GradientSubSupernetStage], scores: Sequence[float], worse: Sequence[int]
) -> str:
    reached = ", ".join(f"{stage.subspace + 1}: {score:.1f} %" for stage, score in zip(searches, scores, strict=True))
    names = ", ".join(str(searches[i].subspace + 1) for i in worse)
    return f"after epoch {rung}, subspaces {names} are trained no further (validation accuracy of {reached})"


def _runs(runs: Sequence[GradientRun]) -> tuple[SubspaceRun, ...]:
    return tuple(
        SubspaceRun(run.subspace, run.genes, run.series, run.val_accuracy, run.signs)
        for run in runs
        if run.subspace is not None
    )


def run_stages_sequentially(
    stages: Sequence[Stage], problem: Problem, resources: Resources, state: SearchState
) -> Iterator[Event]:
    """One stage after another, here."""
    for stage in stages:
        yield from stage.run(problem, resources, state)


def store_one_shot(undivided: SubSupernetStage, resources: Resources, state: SearchState) -> str:
    """Stores the weights of the undivided supernet that was trained for comparison; their blob."""
    weights = TrainState(0, 0, {"net": _checkpoint_weights(undivided, resources, state)["net"]})
    return resources.blobs.put(weights.to_bytes())


def _checkpoint_weights(stage: Stage, resources: Resources, state: SearchState) -> Weights:
    """What the last checkpoint of a stage holds."""
    weights = TrainState.from_bytes(resources.blobs.get(state.checkpoints[stage.name].blob), "cpu").weights
    assert weights is not None
    return weights


def _longest(work: Sequence[int], workers: int) -> int:
    """How long it takes so many workers that each take what comes next."""
    busy = [0] * workers
    for length in work:
        busy[busy.index(min(busy))] += length
    return max(busy)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch with so many threads, and then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
