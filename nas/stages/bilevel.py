"""Train a supernet's weights and architecture parameters together, from one seed or several, with checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from nas.core.arch import Arch, Floats, Genes
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Traced, Warned
from nas.core.ports import Problem, Resources, is_relaxed
from nas.fleet import latency_metrics
from nas.stages.checkpoint_pace import CheckpointPace, spacing_s
from nas.stages.conditioned import conditioned_devices, is_within_bounds
from nas.stages.gradient_runs import GradientRun, dump_runs, load_runs
from nas.stages.progress_pace import ProgressPace
from nas.stages.results import BilevelResult, SeedRun, TrainResult
from nas.stages.subnets import Subnets
from nas.stages.time_limit import out_of_time
from nas.supernet import RelaxedSupernet
from nas.training.gradient.loop import EpochReport, GradientSearch, GradientStep, run_gradient_search
from nas.training.gradient.options import EXPERIMENTAL, DartsParams
from nas.training.gradient.steps import LatencyCost
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from nas.training.weights import Weights

PRICED = 3  # steps of each kind


@dataclass(frozen=True)
class BilevelStage:
    """Searches ``options.seeds`` times. The supernet that is kept is that of the run whose network scores best on the
    validation images; the architecture parameters of all runs are stored beside it."""

    options: DartsParams
    name: ClassVar[str] = "train"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Ends with the blob of the supernet. Raises StorageError when a run's last state cannot be kept."""
        if problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, TrainResult.reuse(problem.supernet_blob).to_json())
            return
        start, runs = TrainState(), list[GradientRun]()
        last = state.checkpoints.get(self.name)
        blob = last.blob if last is not None else ""
        if last is not None:
            start = TrainState.from_bytes(resources.blobs.get(last.blob), resources.torch_device)
            assert start.weights is not None
            runs = load_runs(start.weights["runs"])
            if "alphas" not in start.weights:  # between two runs
                start = TrainState()
        elif self.options.preset in EXPERIMENTAL:
            yield Warned(self.name, f"preset {self.options.preset} is experimental: it may do worse than random search")
        finished_seeds = [run.seed for run in runs]
        for seed in range(problem.spec.seed, problem.spec.seed + self.options.seeds):
            if seed in finished_seeds:
                continue
            learning, before = self._begin(problem, resources, seed), sum(run.steps for run in runs)
            yield from self._search(problem, resources, learning, start, seed, runs)
            start = TrainState()
            runs.append(_ended_run(problem, resources, learning, seed))
            yield Checkpoint(f"{self.name}.seed{seed}", learning.steps, _supernet_of(runs[-1]))  # so that it is kept
            blob = resources.blobs.put(_best_with(runs, resources).to_bytes())
            yield Checkpoint(self.name, before + learning.steps, blob)
            if resources.is_out_of_time():
                break
        yield StageFinished(self.name, 0.0, _result(blob, runs).to_json())

    def _search(
        self,
        problem: Problem,
        resources: Resources,
        learning: GradientSearch,
        start: TrainState,
        seed: int,
        runs: Sequence[GradientRun],
    ) -> Iterator[Event]:
        """One run from ``start``, after those of other seeds, to its end or until the time is up."""
        pace = Pace(resources.clock, self.options.checkpoint_s, resources.is_out_of_time)
        before, prefix = sum(run.steps for run in runs), "" if self.options.seeds == 1 else f"seed {seed}: "
        for report in run_gradient_search(learning, start, pace.save_due):
            match report:
                case GradientStep():
                    if (readings := pace.observe(report)) is not None:
                        message = f"{prefix}{report.kind}, epoch {report.epoch + 1} of {len(learning.kinds)}"
                        total = before + (self.options.seeds - len(runs)) * report.total
                        yield Progress(self.name, before + report.done, total, "steps", readings, message)
                case EpochReport():
                    yield traced(self.name, learning, {"seed": seed}, report, before)
                    for warning in report.warnings:
                        yield Warned(self.name, f"{prefix}{warning}")
                case TrainState() if report.phase < len(learning.kinds):  # the last is kept with what was found
                    done = before + learning.done(report.phase, report.step)
                    yield pace.checkpoints.keep(self.name, done, with_runs(report, runs), resources.blobs)
                    if resources.is_out_of_time():
                        yield Warned(self.name, out_of_time(problem.spec, f"step {done} of the gradient search"))
                        return

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """A few steps of each kind and what is done at the end of an epoch; early ends are not foreseen."""
        if problem.supernet_blob is not None:
            return StageCost.zero(self.name, "the supernet is trained already")
        clock = resources.clock
        started_at = clock()
        learning = self._begin(problem, resources, problem.spec.seed)
        total, timed = DurationRange.exact(clock() - started_at), 0
        for kind in dict.fromkeys(learning.kinds):
            epochs = [e for e, k in enumerate(learning.kinds) if k == kind]
            # Alphas may rest in the first epochs, so the last of a kind is the one that stands for the others.
            times = [_seconds(clock, lambda e=epochs[-1], s=s: learning.step(e, s)) for s in range(PRICED + 1)][1:]  # type: ignore[misc]
            step_duration = DurationRange(min(times), fmean(times), max(times))
            total += step_duration * (len(epochs) * learning.per_epoch)
            if kind != "select":
                total += DurationRange.exact(_seconds(clock, lambda e=epochs[0]: learning.end_epoch(e))) * len(epochs)  # type: ignore[misc]
            timed += len(times)
        saved_s = _seconds(clock, lambda: resources.blobs.put(learning.state(0, 0).to_bytes()))
        total += DurationRange.exact(saved_s) * (1 + total.seconds / spacing_s(self.options.checkpoint_s, saved_s))
        return StageCost.of(self.name, total * self.options.seeds, self.options.seeds * learning.steps, timed, "steps")

    def _begin(self, problem: Problem, resources: Resources, seed: int) -> GradientSearch:
        return searching(problem, resources, self.options, problem.space.supernet(seed), seed)


def searching(
    problem: Problem,
    resources: Resources,
    options: DartsParams,
    net: RelaxedSupernet,
    seed: int,
    allowed_EO: NDArray[np.bool_] | None = None,
) -> GradientSearch:
    """A search that begins with the weights of ``net``, among the allowed operations."""
    assert is_relaxed(problem.space)
    moved: Any = net.to(torch.device(resources.torch_device))
    moved = moved.to(memory_format=torch.channels_last)
    pipeline = Pipeline.of(problem, resources.torch_device)
    latency = None
    if options.latency_weight > 0 or options.resource == "latency":
        by_share = problem.spec.by_share

        def upper(genes_NG: Genes) -> Floats:
            metrics = latency_metrics(problem.predictor, problem.space, genes_NG)
            return metrics["upper_share" if by_share else "upper_ms"]

        latency = LatencyCost(upper, 100.0 if by_share else problem.spec.bound("latency"))
    devices = conditioned_devices(problem) if options.hypernetwork else []
    return GradientSearch(moved, problem.space, problem.data, pipeline, options, seed, latency, allowed_EO, devices)


def traced(stage: str, learning: GradientSearch, run: Mapping[str, float], reading: EpochReport, before: int) -> Traced:
    """A reading as an event. ``run`` tells the run by name and number, such as its seed; ``before`` steps were done by
    other runs."""
    relaxation = learning.space.relaxation
    values = {**run, "epoch": float(reading.epoch + 1), **reading.values}
    table = tuple(tuple(round(float(p), 5) for p in row) for row in reading.p_EO)
    step = before + reading.done
    return Traced(stage, step, values, relaxation.edges, relaxation.operations, table)


class Pace:
    """When to report and when to save."""

    def __init__(
        self, clock: Callable[[], float], checkpoint_s: float, is_out_of_time: Callable[[], bool] = lambda: False
    ) -> None:
        self.checkpoints, self._progress = CheckpointPace(clock, checkpoint_s), ProgressPace(clock)
        self._is_out_of_time = is_out_of_time

    def save_due(self) -> bool:
        """Whether the last checkpoint is old, or the time is up."""
        return self._is_out_of_time() or self.checkpoints.due()

    def observe(self, step: GradientStep) -> dict[str, float] | None:
        """Live readings, at most four times a second."""
        if not self._progress.due(step):
            return None
        return {"loss": step.loss, "images_per_s": self._progress.images_per_s}


def run_record(
    problem: Problem, resources: Resources, learning: GradientSearch, seed: int, genes: Genes | None = None
) -> GradientRun:
    """The result of one run; its network, ``genes`` if given, is scored with inherited weights."""
    genes = learning.discretised if genes is None else genes
    arch = Arch(problem.space.id, tuple(genes.tolist()))
    subnets = Subnets(problem, learning.net, resources.torch_device)
    score = subnets.score(subnets.cut(arch), arch, problem.data.val)
    return GradientRun(
        seed=seed,
        genes=arch.genes,
        series=tuple(tuple(g.tolist()) for g in learning.series),
        scores=tuple(map(tuple, learning.scores().tolist())),
        val_accuracy=score.quality,
        signs=tuple(learning.signs),
        steps=learning.steps,
    )


def _ended_run(problem: Problem, resources: Resources, learning: GradientSearch, seed: int) -> GradientRun:
    """The record of a run that has ended, with the blob of its supernet and of its hypernetwork, if it has one."""
    weights: Weights = {"net": learning.net.state_dict()}
    if learning.conditioning is not None:
        learning.conditioning.settle(is_within_bounds(problem))
        weights["hypernetwork"] = learning.conditioning.net.state_dict()
    run = run_record(problem, resources, learning, seed)
    blob = resources.blobs.put(TrainState(0, 0, weights).to_bytes())
    return replace(run, supernet=blob, conditioned=learning.conditioning is not None)


def _best_with(runs: Sequence[GradientRun], resources: Resources) -> TrainState:
    """The supernet of the run that scores best, beside the records of all runs."""
    best = max(runs, key=lambda run: (run.val_accuracy, -run.seed))
    weights = TrainState.from_bytes(resources.blobs.get(_supernet_of(best)), "cpu").weights
    assert weights is not None
    return TrainState(0, 0, {"net": weights["net"], "runs": dump_runs(runs)})


def _supernet_of(run: GradientRun) -> str:
    assert run.supernet is not None
    return run.supernet


def with_runs(state: TrainState, runs: Sequence[GradientRun]) -> TrainState:
    """The state of a run with the runs that have ended before it."""
    assert state.weights is not None
    return TrainState(state.phase, state.step, {**state.weights, "runs": dump_runs(runs)})


def _result(blob: str, runs: Sequence[GradientRun]) -> BilevelResult:
    accuracies = [run.val_accuracy for run in runs]
    return BilevelResult(
        supernet=blob,
        reused=False,
        steps=sum(run.steps for run in runs),
        runs=tuple(map(_seed_run, runs)),
        mean_val_accuracy=fmean(accuracies),
        deviation_val_accuracy=stdev(accuracies) if len(accuracies) > 1 else 0.0,
    )


def _seed_run(run: GradientRun) -> SeedRun:
    return SeedRun(
        seed=run.seed,
        genes=run.genes,
        series=run.series,
        val_accuracy=run.val_accuracy,
        signs=run.signs,
        supernet=_supernet_of(run),
    )


def _seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    started_at = clock()
    work()
    return clock() - started_at
