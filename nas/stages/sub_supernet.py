"""Training one subspace of a divided supernet, or the whole again for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from nas.core.cost_estimate import StageCost
from nas.core.events import Checkpoint, Event, Progress, SearchState, Warned
from nas.core.ports import Problem, Resources
from nas.core.rng import Stream, derive_seed
from nas.stages.checkpoint_pace import CheckpointPace
from nas.stages.progress_pace import ProgressPace
from nas.stages.results import SplitResult, TrainResult
from nas.stages.subnets import load_supernet
from nas.stages.time_limit import out_of_time
from nas.training.fewshot.partition import SpacePartition, sample_subspace, subspace_extremes
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe, train
from nas.training.samplers import sample_elastic
from nas.training.state import TrainState


@dataclass(frozen=True)
class SubSupernetStage:
    """Trains one subspace, or without a ``subspace`` the whole space in one, beginning with the warmed-up weights. It
    needs nothing of the others, so it may run in another process: its events are all that it gives back. Its last
    checkpoint holds the trained weights."""

    subspace: int | None
    recipe: SupernetRecipe
    checkpoint_s: float

    @property
    def name(self) -> str:
        """Under which its checkpoints are kept."""
        return "train.one_shot" if self.subspace is None else f"train.subspace{self.subspace + 1}"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Goes on from its own last checkpoint. Raises StorageError when the last one cannot be kept."""
        partition = SpacePartition.from_json(SplitResult.require(state.finished).tree, problem.space.decisions)
        net = load_supernet(problem, resources, TrainResult.require(state.finished, "warm_up").blob)
        start, done = TrainState(), 0
        if (last := state.checkpoints.get(self.name)) is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
            done = last.step
        phases = len(self.recipe.phases)
        if start.phase == phases:
            return
        pace, progress = CheckpointPace(resources.clock, self.checkpoint_s), ProgressPace(resources.clock)
        due = lambda: resources.is_out_of_time() or pace.due()  # noqa: E731
        pipeline = Pipeline.of(problem, resources.torch_device)
        position = (Stream.UNDIVIDED_SUPERNET,) if self.subspace is None else (Stream.SUB_SUPERNET, self.subspace)
        seed = derive_seed(problem.spec.seed, *position)
        sample, ends = sample_elastic, None
        if self.subspace is not None:
            sample = partial(sample_subspace, partition, self.subspace)
            if any(phase.teacher != "none" for phase in self.recipe.phases):
                ends = subspace_extremes(partition, self.subspace, problem.space)
        for report in train(net, problem.space, problem.data, pipeline, self.recipe, seed, start, due, sample, ends):
            if isinstance(report, Step):
                done = report.done
                if progress.due(report):
                    yield Progress(self.name, report.done, report.total, "steps", {"loss": report.loss})
                continue
            is_last = report.phase == phases
            yield (event := pace.keep(self.name, done, report, resources.blobs, is_last=is_last))
            if isinstance(event, Checkpoint) and not is_last and resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"step {done} of {self._label}"))
                return

    @property
    def _label(self) -> str:
        return "the undivided supernet" if self.subspace is None else f"subspace {self.subspace + 1}"

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Estimated by the stage of all subspaces."""
        return StageCost.unknown(self.name, "estimated together with the other sub-supernets")
