"""The schedules of supernet training on CIFAR-10 at 32 pixels, with equal images seen.

Every schedule trains the supernet of a small ``mobilenet_v3`` space for as many epochs, by the product's own stages,
which then explore it: hypervolume is that of the estimated front for accuracy and MACs, as the product reports it.
``cost`` counts images times the MACs of the networks that they went through: three times for those that learn, once for
those that teach or are chosen from; progressive shrinking is 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import ROOT, Options, main, shared_file
from benchmarks._finished_runs import FinishedRuns
from benchmarks.small_budget import PlantedLatency
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, as_genes
from nas.core.device import DeviceProfile
from nas.core.events import SearchState, fold_all
from nas.core.ports import Dataset, Problem, Resources, SearchSpace
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import run_search, stages_of
from nas.stages.results import ExploreResult, TrainResult
from nas.stages.train import TrainStage
from nas.strategies.once_for_all import OnceForAllParams
from nas.training import samplers
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, Training
from nas.training.schedules import SCHEDULES

LEARNING = 3  # forward passes that learning takes: backward counts as two
STAGES = ("estimate", "train", "ladder", "explore")
SPACE: dict[str, Any] = {
    "resolutions": [16, 24, 32],
    "stem": 8,
    "stem_stride": 2,
    "stages": [
        {"width": 16, "stride": 1, "act": "relu", "se": False},
        {"width": 24, "stride": 2, "act": "hswish", "se": True},
        {"width": 40, "stride": 2, "act": "hswish", "se": True},
    ],
    "depths": [1, 2, 3],
    "kernels": [3, 5],
    "expands": [2, 3, 4],
    "widths": [0.5, 0.75, 1.0],
    "final": 128,
    "hidden": 128,
}


@dataclass(frozen=True)
class ScheduleSetting:
    """Sizes, the same for every schedule: training and validation images, epochs, and networks that are scored by the
    explorer, and by random search beside it."""

    images: int
    validation: int
    epochs: int
    evaluations: int


SMALL = ScheduleSetting(1_500, 500, 5, 16)
FULL = ScheduleSetting(6_000, 1_000, 12, 32)


def problem_of(schedule: str, seed: int, setting: ScheduleSetting, archive: Path) -> Problem:
    """A search for accuracy and MACs on a device that does not matter."""
    data = small_cifar(archive, setting.images, setting.validation, 32)
    params = {"schedule": schedule, "epochs": setting.epochs, "rank_networks": 0, "checkpoint_s": 3600.0}
    spec = SearchSpec(
        space=SpaceSpec(params=SPACE),
        strategy=StrategySpec(params=params),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="macs")),
        budget=BudgetSpec(evaluations=setting.evaluations),
        seed=seed,
    )
    space = registry.build_space(spec.space, data.shape)
    return Problem(spec, space, data, DeviceProfile("planted", "", "", 1, "planted", "", ""), PlantedLatency.of(space))


def work(training: Training, space: SearchSpace) -> float:
    """Images times MACs of a whole training."""
    ends = samplers.largest(space), samplers.smallest(space)
    total = 0.0
    for p, phase in enumerate(training.recipe.phases):
        for step in range(training.lengths[p]):
            drawn = training.archs(p, step)
            largest, smallest = (samplers.with_resolution(space, end, drawn[0]) for end in ends)
            learning = [*drawn[: phase.drawn], largest, smallest] if phase.has_ends else drawn
            total += LEARNING * macs(space, learning)
            if phase.teacher == "frozen":
                total += macs(space, [largest])
            if phase.candidates > 1:  # whose MACs are about equal
                total += phase.candidates * macs(space, drawn[: phase.drawn])
    return total * training.recipe.batch_size


def macs(space: SearchSpace, archs: Sequence[Arch]) -> float:
    """MACs of one image in all networks together."""
    return float(space.costs(as_genes(archs))["macs"].sum())


def work_of(schedule: str, setting: ScheduleSetting, data: Dataset) -> float:
    """What a schedule costs with the first seed: others differ in which random networks are drawn."""
    params = OnceForAllParams()
    space = registry.build_space(SpaceSpec(params=SPACE), data.shape)
    phases = SCHEDULES[schedule](setting.epochs, params.lr, samplers.axes(space.decisions))
    recipe = SupernetRecipe(phases, batch_size=params.batch_size)
    return work(Training(space.supernet(0), space, data, Pipeline(data, "cpu"), recipe, 0), space)


def trained(schedule: str, seed: int, setting: ScheduleSetting, archive: Path) -> dict[str, Any]:
    """One training by a schedule and what exploring it gives."""
    torch.set_num_threads(1)
    problem = problem_of(schedule, seed, setting, archive)
    started_s = time.process_time()
    with TemporaryDirectory() as folder:
        resources = Resources(FolderBlobs(Path(folder)), lambda *_: iter(()), time.monotonic)
        stages = [stage for stage in stages_of(problem) if stage.name in STAGES]
        training = next(stage for stage in stages if isinstance(stage, TrainStage))
        state = fold_all(run_search(problem, stages, resources, SearchState()))
    explored, reached = ExploreResult.require(state.finished), TrainResult.require(state.finished)
    return {
        "hypervolume": explored.hypervolume,
        "smallest": reached.smallest_val_quality,
        "largest": reached.largest_val_quality,
        "epochs": sum(phase.epochs for phase in training.recipe.phases),
        "processor_s": time.process_time() - started_s,
    }


def summary(runs: Sequence[Mapping[str, Any]], cost: float) -> dict[str, float]:
    """Means over seeds, the deviation of hypervolume, and the cost."""
    volumes = [float(run["hypervolume"]) for run in runs]
    return {
        "hypervolume": fmean(volumes),
        "deviation": stdev(volumes) if len(volumes) > 1 else 0.0,
        "cost": cost,
        "smallest": fmean(run["smallest"] for run in runs),
        "largest": fmean(run["largest"] for run in runs),
    }


def bench(options: Options) -> Mapping[str, Any]:
    """Every schedule with every seed, several at a time; runs that were finished before are not repeated."""
    archive = shared_file(options, "data", "cifar10_jpeg.npz")
    setting = FULL if options.more["full"] else SMALL
    if options.more["tiny"]:
        setting = ScheduleSetting(128, 64, 2, 8)
    names = options.more["schedule"] or list(SCHEDULES)
    finished = FinishedRuns(options.more["partial"], asdict(setting))
    missing = [(name, seed) for seed in options.seeds for name in names if f"{name} {seed}" not in finished.runs]
    with ProcessPoolExecutor(options.more["workers"], mp_context=get_context("spawn")) as pool:
        running = {pool.submit(trained, name, seed, setting, archive): f"{name} {seed}" for name, seed in missing}
        for future in as_completed(running):
            run = future.result()
            finished.keep(running[future], run, f"hypervolume {run['hypervolume']:.4f}")
    data = small_cifar(archive, setting.images, setting.validation, 32)
    baseline_work = work_of("progressive", setting, data)
    schedules = {
        name: summary(
            [finished.runs[f"{name} {seed}"] for seed in options.seeds], work_of(name, setting, data) / baseline_work
        )
        for name in names
    }
    return {
        "schedules": schedules,
        "winner": max(schedules, key=lambda name: schedules[name]["hypervolume"]),
        "default": OnceForAllParams().schedule,
        "setting": {**asdict(setting), "seeds": len(options.seeds)},
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes, schedules and where finished runs are kept."""
    parser.add_argument("--full", action="store_true", help="more images and epochs: up to 90 minutes with three seeds")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; its figures mean nothing")
    parser.add_argument("--schedule", action="append", choices=list(SCHEDULES), help="one of them alone; repeatable")
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time (%(default)s)")
    default = ROOT / "benchmarks" / "results" / "schedules.partial.json"
    parser.add_argument("--partial", type=Path, default=default, help="finished runs, to go on from (%(default)s)")


if __name__ == "__main__":
    main("schedules", bench, (__doc__ or "").split("\n")[0], ("torch", "numpy"), seeds=2, more=add_arguments)
