"""Training the supernet, with checkpoints at every phase and at intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from nas.core.arch import as_genes
from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Warned
from nas.core.ports import Problem, Resources
from nas.stages.cost_estimate import NETWORKS, scoring_s
from nas.stages.results import TrainResult
from nas.stages.subnets import Subnets, initial_supernet
from nas.stages.time_limit import out_of_time
from nas.training import samplers
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe, Training, TrainState, train


@dataclass(frozen=True)
class TrainStage:
    """Trains by ``recipe``; a checkpoint at least every ``checkpoint_s`` seconds. Skipped when a supernet is reused."""

    recipe: SupernetRecipe
    checkpoint_s: float = 10.0
    name: str = "train"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Ends with the blob of the trained supernet. Raises StorageError when the last checkpoint cannot be kept."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, TrainResult.reuse(problem.supernet_blob).to_json())
            return
        net = initial_supernet(problem, resources, state)
        start, done = TrainState(), 0
        last = state.checkpoints.get(self.name)
        if last is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
            done = last.step
        saved_at = reported_at = resources.clock()
        started_at, images = resources.clock(), 0
        blob = last.blob if last is not None else ""
        due = lambda: resources.is_out_of_time() or resources.clock() - saved_at >= self.checkpoint_s  # noqa: E731
        pipeline = Pipeline.of(problem, resources.torch_device)
        phases = self.recipe.phases
        for report in train(net, problem.space, problem.data, pipeline, self.recipe, problem.spec.seed, start, due):
            if isinstance(report, Step):
                images += report.images
                done = report.done
                if (now := resources.clock()) - reported_at >= 0.25 or report.done == report.total:
                    reported_at = now
                    values = {"loss": report.loss, "images_per_s": images / max(now - started_at, 1e-9)}
                    message = f"phase {phases[report.phase].name} ({report.phase + 1} of {len(phases)})"
                    yield Progress(self.name, report.done, report.total, "steps", values, message)
                continue
            finished = report.phase == len(phases)
            try:
                blob = resources.blobs.put(report.to_bytes())
            except StorageError as error:
                if finished:
                    raise
                yield Warned(self.name, f"checkpoint at step {done} was not kept, training goes on: {error}")
            else:
                yield Checkpoint(self.name, done, blob)
            saved_at = resources.clock()
            if not finished and resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"step {done} of training"))
                break
        subnets = Subnets(problem, net, resources.torch_device)
        reached = {}
        for name, arch in (
            ("largest", samplers.largest(problem.space)),
            ("smallest", samplers.smallest(problem.space)),
        ):
            reached[f"{name}_val_quality"] = subnets.score(subnets.cut(arch), arch, problem.data.val).quality
        yield StageFinished(self.name, 0.0, TrainResult(blob, False, done, **reached).to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Steps of each phase: the smallest and the largest of those that training will draw, and some between."""
        if problem.supernet_blob is not None:
            return StageCost.zero(self.name, "the supernet is trained already")
        clock, space = resources.clock, problem.space
        started_at = clock()
        net = space.supernet(problem.spec.seed).to(torch.device(resources.torch_device))
        pipeline = Pipeline.of(problem, resources.torch_device)
        # At a learning rate of 0 nothing is learned and nothing diverges, in the same time.
        still = replace(self.recipe, phases=tuple(replace(p, lr=0.0) for p in self.recipe.phases))
        training = Training(net, space, problem.data, pipeline, still, problem.spec.seed)
        total, timed = DurationRange.exact(clock() - started_at), 0
        for p, length in enumerate(training.lengths):
            started_at = clock()
            training.begin(p)
            total += DurationRange.exact(clock() - started_at)
            steps = np.linspace(0, length - 1, min(length, NETWORKS)).astype(int).tolist()
            macs = [float(space.costs(as_genes(training.archs(p, step)))["macs"].sum()) for step in steps]
            step_duration = average_duration(macs, partial(_step_seconds, training, clock, p, steps))
            total += step_duration.span * length
            timed += step_duration.count
        kept_s = mean_seconds(clock, lambda: resources.blobs.put(training.state(0, 0).to_bytes()))
        checkpoints = min(total.seconds / self.checkpoint_s, sum(training.lengths)) + len(training.lengths)
        total += DurationRange.exact(kept_s) * checkpoints
        subnets = Subnets(problem, net, resources.torch_device)
        for arch in (samplers.largest(space), samplers.smallest(space)):
            total += DurationRange.exact(scoring_s(subnets, arch, problem.data.val, clock)[0])
        return StageCost.of(self.name, total, sum(training.lengths), timed, "steps")


def _step_seconds(
    training: Training, clock: Callable[[], float], phase: int, steps: Sequence[int], position: int
) -> float:
    return mean_seconds(clock, lambda: training.step(phase, steps[position]))
