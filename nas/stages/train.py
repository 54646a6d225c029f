"""Training the supernet, with checkpoints at every phase and at intervals."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from nas.core.arch import Arch, as_genes
from nas.core.cost_estimate import DurationRange, StageCost, TrainingSpeed, average_duration, mean_seconds
from nas.core.errors import DataChanged
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Warned
from nas.core.ports import Problem, Resources
from nas.stages.checkpoint_pace import CheckpointPace, spacing_s
from nas.stages.cost_estimate import NETWORKS, scoring_s
from nas.stages.progress_pace import ProgressPace
from nas.stages.results import TrainResult
from nas.stages.subnets import Subnets, initial_supernet
from nas.stages.time_limit import out_of_time
from nas.training import samplers
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe, Training, run_training
from nas.training.ranks import Ranks, ranks_of
from nas.training.state import TrainState
from nas.training.trainer import FEWEST_IMAGES


@dataclass(frozen=True)
class TrainStage:
    """Trains by ``recipe``; a checkpoint every ``checkpoint_s`` seconds, or less often where it takes long. Skipped
    when a supernet is reused."""

    recipe: SupernetRecipe
    checkpoint_s: float = 10.0
    name: str = "train"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Ends with the blob of the trained supernet, from the first rank where there are several. Raises StorageError
        when the last checkpoint cannot be kept, and DataChanged where ranks have read different data."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, TrainResult.reuse(problem.supernet_blob).to_json())
            return
        if resources.run_on_ranks is not None:
            yield from resources.run_on_ranks(self, problem, resources, state)
            return
        ranks = ranks_of(resources.rank, resources.torch_device)
        require_equal_data(problem, ranks)
        net = initial_supernet(problem, resources, state)
        pipeline = Pipeline.of(problem, resources.torch_device)
        recipe, seed = self._shared(problem), problem.spec.seed
        training = Training(net, problem.space, problem.data, pipeline, recipe, seed, ranks=ranks)
        steps, blob = yield from self._train(training, problem, resources, ranks, state.checkpoints.get(self.name))
        pipeline.close()
        if ranks.rank.index != 0:
            return
        if (note := training.execution.note(recipe.execution)) is not None:
            yield Warned(self.name, note)
        subnets, how = Subnets(problem, net, resources.torch_device), training.execution
        outcome = TrainResult(
            blob,
            False,
            steps,
            largest_val_quality=_val_quality(subnets, problem, samplers.largest(problem.space)),
            smallest_val_quality=_val_quality(subnets, problem, samplers.smallest(problem.space)),
            precision=how.precision,
            micro_batches=how.micro_batches,
            ranks=ranks.rank.count,
        )
        yield StageFinished(self.name, 0.0, outcome.to_json())

    def _train(
        self, training: Training, problem: Problem, resources: Resources, ranks: Ranks, last: Checkpoint | None
    ) -> Generator[Event, None, tuple[int, str]]:
        """Go on from the ``last`` checkpoint to the end, or until the time is up. Returns how many steps were done, and
        the blob of the latest checkpoint."""
        start, done, blob = TrainState(), 0, ""
        if last is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
            done, blob = last.step, last.blob
        checkpoints, progress = CheckpointPace(resources.clock, self.checkpoint_s), ProgressPace(resources.clock)
        is_first, is_out_of_time = ranks.rank.index == 0, False

        def due() -> bool:
            nonlocal is_out_of_time
            is_out_of_time = ranks.any(resources.is_out_of_time())
            return is_out_of_time or (is_first and checkpoints.due())

        for report in run_training(training, start, due, resources.clock):
            if isinstance(report, Step):
                done = report.done
                if progress.due(report):
                    yield self._progress(report, progress.images_per_s)
                continue
            finished = report.phase == len(self.recipe.phases)
            if report.step == 0:  # the end of a phase, which all ranks reach
                is_out_of_time = ranks.any(resources.is_out_of_time())
            if is_first:
                event = checkpoints.keep(self.name, done, report, resources.blobs, is_last=finished)
                blob = event.blob if isinstance(event, Checkpoint) else blob
                yield event
            if not finished and is_out_of_time:
                yield Warned(self.name, out_of_time(problem.spec, f"step {done} of training"))
                break
        return done, blob

    def _progress(self, step: Step, images_per_s: float) -> Progress:
        phases = self.recipe.phases
        message = f"phase {phases[step.phase].name} ({step.phase + 1} of {len(phases)})"
        readings = {"loss": step.loss, "images_per_s": images_per_s}
        return Progress(self.name, step.done, step.total, "steps", readings, message)

    def _shared(self, problem: Problem) -> SupernetRecipe:
        """The recipe with batches in as many parts as the spec has ranks, however many train now."""
        execution = self.recipe.execution
        parts = max(execution.micro_batches, problem.spec.resources.training_ranks)
        return replace(self.recipe, execution=replace(execution, micro_batches=parts))

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
        if still.chooses_precision:
            training.choose_precision(clock)
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
        training_s = total.seconds
        kept_s = mean_seconds(clock, lambda: resources.blobs.put(training.state(0, 0).to_bytes()))
        checkpoints = min(total.seconds / spacing_s(self.checkpoint_s, kept_s), sum(training.lengths)) + len(
            training.lengths
        )
        total += DurationRange.exact(kept_s) * checkpoints
        subnets = Subnets(problem, net, resources.torch_device)
        for arch in (samplers.largest(space), samplers.smallest(space)):
            total += DurationRange.exact(scoring_s(subnets, arch, problem.data.val, clock)[0])
        steps = sum(training.lengths)
        others_s = total.seconds - training_s
        speed = training_speed(training, clock, self.recipe.batch_size, steps, training_s, others_s)
        ranks = problem.spec.resources.training_ranks
        if (on_ranks_s := dict(speed.seconds_by_ranks).get(ranks)) is not None:
            total = total * (on_ranks_s / total.seconds)
        cost = StageCost.of(self.name, total, steps, timed, "steps", speed.sentence)
        return replace(cost, speed=speed)


RANKS = (1, 2, 4, 8)  # for which a dry run says what training will take


def training_speed(
    training: Training, clock: Callable[[], float], batch: int, steps: int, training_s: float, others_s: float
) -> TrainingSpeed:
    """How fast ``steps`` are that take ``training_s`` on one rank, and what they and ``others_s`` of other work, which
    is not shared, take on several: their micro-batches are computed one after another here, and sums of gradients
    between ranks are taken to go as fast as memory."""
    phase = len(training.lengths) - 1
    step = training.lengths[phase] // 2
    training.step(phase, step)
    step_s = mean_seconds(clock, lambda: training.step(phase, step), at_least_s=0.0)
    loading_s = mean_seconds(clock, lambda: training.load(phase, step), at_least_s=0.0)
    seconds_by_ranks = {1: training_s + others_s}
    for ranks in RANKS[1:]:
        if batch // ranks < FEWEST_IMAGES:
            break
        training.compute_in(ranks)
        parts_s = mean_seconds(clock, lambda: training.step(phase, step), at_least_s=0.0)
        share = parts_s / ranks / max(step_s, 1e-9)
        seconds_by_ranks[ranks] = training_s * share + steps * training.exchange_s(clock) + others_s
    images_per_s = batch * steps / max(training_s, 1e-9)
    return TrainingSpeed(images_per_s, min(1.0, loading_s / max(step_s, 1e-9)), tuple(seconds_by_ranks.items()))


def _val_quality(subnets: Subnets, problem: Problem, arch: Arch) -> float:
    return subnets.score(subnets.cut(arch), arch, problem.data.val).quality


def require_equal_data(problem: Problem, ranks: Ranks) -> None:
    """Raises DataChanged where ranks have read different data."""
    hashes = ranks.values(problem.data.content_hash)
    for rank, content_hash in enumerate(hashes):
        if content_hash != hashes[0]:
            raise DataChanged(
                f"ranks train on different data: expected those of rank 0 (content hash {hashes[0][:12]}), rank {rank} "
                f"has read others ({content_hash[:12]})"
            )


def _step_seconds(
    training: Training, clock: Callable[[], float], phase: int, steps: Sequence[int], position: int
) -> float:
    return mean_seconds(clock, lambda: training.step(phase, steps[position]))
