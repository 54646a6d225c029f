"""Train a supernet ensemble: the weights, and the router from networks to supernets."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nas.core.cost_estimate import DurationRange, StageCost, mean_seconds
from nas.core.events import Event, Progress, SearchState, StageFinished, Traced, Warned, fold
from nas.core.ports import Problem, Resources
from nas.core.rng import Stream, derive_seed
from nas.stages.checkpoint_pace import CheckpointPace
from nas.stages.progress_pace import ProgressPace
from nas.stages.results import EnsembleResult, TrainResult
from nas.stages.sub_supernet import SubSupernetStage
from nas.stages.sub_supernets import store_one_shot
from nas.stages.subnets import load_supernet
from nas.stages.time_limit import out_of_time
from nas.supernet import Supernet
from nas.training.fewshot.ensemble import EnsembleTraining, imbalance, train_ensemble
from nas.training.fewshot.partition import routing_genes
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe
from nas.training.state import TrainState

TRACES = 20  # readings that are kept of the table
MAX_TRACED = 64  # combinations up to which the table is drawn


@dataclass(frozen=True)
class SupernetEnsembleStage:
    """Trains ``models`` supernets, which begin with the weights of a stage ``warm_up``, and a table that routes
    networks by ``decisions`` (none named: by all). ``recipe`` has one phase, the epochs of all supernets together.

    ``compare``: for comparison, the warmed-up supernet alone is trained on as well, by the same recipe, before."""

    recipe: SupernetRecipe
    models: int
    decisions: tuple[str, ...] = ()
    checkpoint_s: float = 10.0
    compare: bool = False
    name: ClassVar[str] = "train"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Ends with the blob of the routed supernet. Raises StorageError when it cannot be kept."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, TrainResult.reuse(problem.supernet_blob).to_json())
            return
        undivided = SubSupernetStage(None, self.recipe, self.checkpoint_s) if self.compare else None
        before = 0
        if undivided is not None:
            for event in undivided.run(problem, resources, state):
                state = fold(state, event)
                if isinstance(event, Progress):
                    event = replace(event, stage=self.name, total=2 * event.total, message="undivided, to compare")
                yield event
            before = state.checkpoints[undivided.name].step
        net = load_supernet(problem, resources, TrainResult.require(state.finished, "warm_up").blob)
        learning = self._begin(problem, resources, net)
        start = TrainState()
        if (last := state.checkpoints.get(self.name)) is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
        pace, progress = CheckpointPace(resources.clock, self.checkpoint_s), ProgressPace(resources.clock)
        due = lambda: resources.is_out_of_time() or pace.due()  # noqa: E731
        traced, trained_steps = max(1, learning.steps // TRACES), start.step
        for report in train_ensemble(learning, start, due):
            if isinstance(report, Step):
                trained_steps = report.done
                if progress.due(report):
                    done, total = before + report.done, before + report.total
                    yield Progress(self.name, done, total, "steps", {"loss": report.loss})
                if report.done % traced == 0 or report.done == report.total:
                    yield self._traced(learning, report.done)
                continue
            is_last = report.step == learning.steps
            yield pace.keep(self.name, report.step, report, resources.blobs, is_last=is_last)
            if not is_last and resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"step {report.step} of the supernet ensemble"))
                break
        routed, assignment = learning.routed(), learning.routing_table()
        record = assignment.as_json(problem.space.decisions)
        trained = TrainState(0, 0, {"net": routed.state_dict(), "partition": json.dumps(record)})
        p_RM = learning.p_RM(trained_steps - 1)
        traced_rows = [r for r in np.flatnonzero(learning.share_R).tolist() if learning.share_R.size <= MAX_TRACED]
        groups = [[learning.names(r) for r in traced_rows if assignment.table[r] == m] for m in range(self.models)]
        shares = np.bincount(assignment.table, learning.share_R, minlength=self.models)
        result = EnsembleResult(
            supernet=resources.blobs.put(trained.to_bytes()),
            reused=False,
            steps=trained_steps,
            subspaces=self.models,
            assignment=record,
            groups=tuple(tuple(group) for group in groups),
            shares=tuple(float(s) for s in shares),
            imbalance=imbalance(learning.share_R @ p_RM),
            one_shot=store_one_shot(undivided, resources, state) if undivided is not None else None,
            one_shot_steps=state.checkpoints[undivided.name].step if undivided is not None else None,
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Steps on random networks, at a learning rate of 0."""
        if problem.supernet_blob is not None:
            return StageCost.zero(self.name, "the supernet is trained already")
        clock = resources.clock
        started_at = clock()
        still = replace(self, recipe=replace(self.recipe, phases=(replace(self.recipe.phases[0], lr=0.0),)))
        learning = still._begin(problem, resources, problem.space.supernet(problem.spec.seed))
        total = DurationRange.exact(clock() - started_at)
        steps = iter(range(10**6))
        learning.step(next(steps))
        times = [mean_seconds(clock, lambda: learning.step(next(steps)), at_least_s=0.0) for _ in range(4)]
        step_duration = DurationRange(min(times), sum(times) / len(times), max(times))
        count = learning.steps * (2 if self.compare else 1)
        return StageCost.of(self.name, total + step_duration * count, count, len(times), "steps")

    def _begin(self, problem: Problem, resources: Resources, net: Supernet) -> EnsembleTraining:
        nets = [copy.deepcopy(net).to(resources.torch_device) for _ in range(self.models)]
        seed = derive_seed(problem.spec.seed, Stream.SUPERNET_ENSEMBLE)
        pipeline = Pipeline.of(problem, resources.torch_device)
        genes = routing_genes(problem.space, self.decisions)
        return EnsembleTraining(nets, problem.space, problem.data, pipeline, self.recipe, seed, genes)

    def _traced(self, learning: EnsembleTraining, done: int) -> Traced:
        p_RM = learning.p_RM(done - 1)
        marginal_M = learning.share_R @ p_RM
        values = {"imbalance": imbalance(marginal_M)}
        values |= {f"supernet_{m + 1}": float(share) for m, share in enumerate(marginal_M)}
        trained_rows = np.flatnonzero(learning.share_R)
        if len(trained_rows) > MAX_TRACED:
            return Traced(self.name, done, values)
        rows = tuple(learning.names(int(r)) for r in trained_rows)
        table = tuple(tuple(round(float(p), 5) for p in p_RM[r]) for r in trained_rows)
        return Traced(self.name, done, values, rows, tuple(f"supernet {m + 1}" for m in range(self.models)), table)
