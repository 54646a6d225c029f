"""Searching one subspace of a divided space by gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.cost_estimate import StageCost
from nas.core.errors import InfeasibleBound
from nas.core.events import Checkpoint, Event, Progress, SearchState, Warned
from nas.core.ports import Problem, RelaxedSpace, Resources, is_relaxed
from nas.core.rng import Stream, earlier_rng, rng
from nas.stages.bilevel import Pace, run_record, searching, traced
from nas.stages.gradient_runs import dump_run
from nas.stages.results import SplitResult, TrainResult
from nas.stages.subnets import load_supernet
from nas.stages.time_limit import out_of_time
from nas.supernet import RelaxedSupernet
from nas.training.fewshot.allowed import allowed_operations
from nas.training.fewshot.partition import SpacePartition
from nas.training.gradient.loop import EpochReport, GradientStep, run_gradient_search
from nas.training.gradient.options import DartsParams
from nas.training.gradient.progress import uses_earlier_streams
from nas.training.gradient.resource import within_bounds
from nas.training.state import TrainState


@dataclass(frozen=True)
class GradientSubSupernetStage:
    """Searches one subspace by gradient, beginning with the warmed-up weights: a relaxation of the subspace's
    operations alone.

    Like ``SubSupernetStage`` it may run elsewhere. Its last checkpoint holds the weights, and what was found.
    ``rung``: pause after so many epochs, with a checkpoint under ``rung_name``. ``ends``: what it has reached is what
    it has found."""

    subspace: int
    options: DartsParams
    rung: int | None = None
    ends: bool = False

    @property
    def name(self) -> str:
        """Under which its checkpoints are kept."""
        return f"train.subspace{self.subspace + 1}"

    @property
    def rung_name(self) -> str:
        """Under which the checkpoint of its pause is kept."""
        return f"{self.name}.rung{self.rung}"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Goes on from its own last checkpoint. Raises StorageError when the last one cannot be kept."""
        space = problem.space
        assert is_relaxed(space)
        start = TrainState()
        if (last := state.checkpoints.get(self.name)) is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
            if start.weights is not None and "run" in start.weights:
                return
        if self.rung_name in state.checkpoints:
            return
        partition = SpacePartition.from_json(SplitResult.require(state.finished).tree, space.decisions)
        net = load_supernet(problem, resources, TrainResult.require(state.finished, "warm_up").blob)
        assert isinstance(net, RelaxedSupernet)
        generator = rng(problem.spec.seed, Stream.SUB_SUPERNET, self.subspace)
        if start.weights is not None and uses_earlier_streams(start.weights):
            generator = earlier_rng(problem.spec.seed, 23, self.subspace)  # the held-out images depend on the seed
        seed = int(generator.integers(2**62))
        allowed_EO = allowed_operations(space, partition, self.subspace)
        learning = searching(problem, resources, self.options, net, seed, allowed_EO)
        pace, done = Pace(resources.clock, self.options.checkpoint_s, resources.is_out_of_time), 0
        pauses = False
        if self.ends and start.weights is not None:
            learning.restore(start.weights)
            done = learning.done(start.phase, start.step)
        due = lambda: pauses or pace.save_due()  # noqa: E731
        for report in () if self.ends else run_gradient_search(learning, start, due):
            match report:
                case GradientStep():
                    done = report.done
                    if (values := pace.observe(report)) is not None:
                        yield Progress(self.name, report.done, report.total, "steps", values)
                case EpochReport():
                    pauses = report.epoch + 1 == self.rung
                    yield traced(self.name, learning, {"subspace": self.subspace + 1}, report, 0)
                    for warning in report.warnings:
                        yield Warned(self.name, f"subspace {self.subspace + 1}: {warning}")
                case TrainState() if report.phase < len(learning.kinds):
                    at = learning.done(report.phase, report.step)
                    yield (event := pace.checkpoints.keep(self.name, at, report, resources.blobs, is_last=pauses))
                    if pauses and isinstance(event, Checkpoint):
                        yield replace(event, stage=self.rung_name)
                        return
                    if resources.is_out_of_time():
                        reached = f"step {done} of the gradient search of subspace {self.subspace + 1}"
                        yield Warned(self.name, out_of_time(problem.spec, reached))
                        break
        genes = discretise_inside(space, partition, self.subspace, learning.scores(), generator)
        run = replace(run_record(problem, resources, learning, self.subspace + 1, genes), subspace=self.subspace)
        runs_entry = TrainState(0, 0, {"net": learning.net.state_dict(), "run": dump_run(run)})
        yield Checkpoint(self.name, done, resources.blobs.put(runs_entry.to_bytes()))

    def accuracy_at_rung(self, problem: Problem, resources: Resources, state: SearchState) -> float:
        """Accuracy of the relaxation on validation images at its pause, in %, each batch with its own statistics."""
        space = problem.space
        assert is_relaxed(space)
        weights = TrainState.from_bytes(
            resources.blobs.get(state.checkpoints[self.rung_name].blob), resources.torch_device
        ).weights
        assert weights is not None
        partition = SpacePartition.from_json(SplitResult.require(state.finished).tree, space.decisions)
        allowed_EO = allowed_operations(space, partition, self.subspace)
        learning = searching(problem, resources, self.options, space.supernet(problem.spec.seed), 0, allowed_EO)
        learning.restore(weights)
        learning.net.train()
        return learning.validation_accuracy()

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Estimated by the stage of all subspaces."""
        return StageCost.unknown(self.name, "estimated together with the other sub-supernets")


def discretise_inside(
    space: RelaxedSpace, partition: SpacePartition, subspace: int, scores_EO: Floats, rng: np.random.Generator
) -> Genes:
    """The likeliest network of a subspace by a table of scores, shape (G,). A cell in which the divided edge leads
    nowhere is another subspace's network. Where none is found near the scores, their own favourite, whichever subspace
    it is in."""

    def outside(genes_NG: Genes) -> Floats:
        return np.where(partition.route(genes_NG) == subspace, 0.0, 100.0)

    try:
        return within_bounds(space, outside, scores_EO, rng)
    except InfeasibleBound:
        return space.discretise(scores_EO)
