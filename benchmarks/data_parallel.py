"""Once-for-all training on two ranks of one thread each against one, on a local Ray, as a search trains; and a kill.

``efficiency``: images a second of two ranks over twice those of one, after the start, median over rounds in turns.
``machine``: the same of two trainings that have nothing to do with each other, which is what two cores, their caches
and their memory leave of twice one core.
``loss_difference``: relative, between the losses of the last of 50 steps. ``restart_lost_steps``: what has to be done
again after one of two ranks was killed; ``checkpoint_steps``: the longest interval between its checkpoints.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.blobs import open_blobs
from nas.core.errors import HwnasError
from nas.core.events import Checkpoint, EncodedEvent, Event, Progress, SearchState, StageFinished, Warned
from nas.core.jobs import Lease, SearchPayload
from nas.core.ports import Dataset, ImageShape, Problem, Resources, Split
from nas.core.spec import ResourceSpec, SearchSpec
from nas.stages.train import TrainStage
from nas.training.progressive import SupernetRecipe
from nas.training.schedules import sandwich
from search_spaces.mobilenet_v3.space import build
from workers.attempt import AttemptOutcome
from workers.data_parallel import ray_data_parallel
from workers.ray_cluster import RayCluster, ray_cluster

STEPS, ROUNDS = 50, 2
SECONDS = 1_200.0  # for one training
CHECKPOINT_S = 5.0
KILLED_AT = 20  # steps


@dataclass(frozen=True)
class TrainingSize:
    """Of a training: the preset of its space, images of ``pixels`` and how many of them a step has."""

    preset: str
    pixels: int
    batch: int


SIZES = {
    "default": TrainingSize("imagenet", 64, 32),
    "full": TrainingSize("imagenet", 128, 32),
    "tiny": TrainingSize("digits", 8, 8),
}


@dataclass(frozen=True)
class Training:
    """What is read of one training: seconds by steps done, the loss of its last step, steps of its checkpoints, and the
    steps that were done and kept when a rank died."""

    seconds: Mapping[int, float]
    loss: float
    checkpoints: Sequence[int]
    done_at_death: int | None
    kept_at_death: int | None

    @property
    def step_s(self) -> float:
        """Seconds of a step, between the first report and the last."""
        first, last = min(self.seconds), max(self.seconds)
        return (self.seconds[last] - self.seconds[first]) / (last - first)


def bench(options: Options) -> dict[str, Any]:
    """Trainings in turns, then the one whose rank is killed."""
    size = "full" if options.more["full"] else options.more["size"]
    trainings: dict[int, list[Training]] = {1: [], 2: []}
    beside: list[Training] = []
    with tempfile.TemporaryDirectory() as folder:
        cluster_options = {"blobs_url": folder, "run_job": "benchmarks.data_parallel:run_job"}
        with ray_cluster(None, Path(folder) / "ray", cpus=2, **cluster_options) as cluster:
            for _ in range(ROUNDS):
                for ranks in trainings:
                    trainings[ranks].append(_train(cluster, size, ranks))
                with ThreadPoolExecutor(2) as threads:
                    beside += threads.map(lambda _: _train(cluster, size, 1, cpus=1), range(2))
            killed = _train(cluster, size, 2, Path(folder) / "killed")
    if killed.done_at_death is None or killed.kept_at_death is None:
        raise HwnasError("expected a rank that dies, but none did")
    ratios = [one.step_s / (2 * two.step_s) for one, two in zip(trainings[1], trainings[2], strict=True)]
    one, two = trainings[1][0].loss, trainings[2][0].loss
    return {
        "efficiency": median(ratios),
        "efficiencies": ratios,
        "machine": median(t.step_s for t in trainings[1]) / median(t.step_s for t in beside),
        "loss_difference": abs(one - two) / abs(one),
        "restart_lost_steps": killed.done_at_death - killed.kept_at_death,
        "checkpoint_steps": max(np.diff([0, *killed.checkpoints])).item(),
        "loss_difference_after_restart": abs(one - killed.loss) / abs(one),
        "step_s": {str(ranks): median(t.step_s for t in trainings[ranks]) for ranks in trainings},
        "steps": STEPS,
        "size": {"preset": SIZES[size].preset, "pixels": SIZES[size].pixels, "batch": SIZES[size].batch},
        "goals": {"efficiency": 0.85, "loss_difference": 1e-4},
    }


def _train(cluster: RayCluster, size: str, ranks: int, killed: Path | None = None, cpus: int = 2) -> Training:
    resources = ResourceSpec(cpus=2, ranks=ranks)
    payload = SearchPayload(SearchSpec(name=f"{size} {killed or ''}".strip(), resources=resources), devices=())
    job = cluster.start(Lease(f"on {ranks}", 1, 0.0, payload), ResourceSpec(cpus=cpus), cluster.nodes()[0])
    records: list[EncodedEvent] = []
    while not isinstance(outcome := job.poll(SECONDS), AttemptOutcome):
        if outcome is None:
            raise TimeoutError(job.dump_stacks())
        records += outcome
    if outcome.status != "succeeded":
        raise RuntimeError(f"training {outcome.status}: {outcome.message}")
    return Training(
        seconds={int(r["done"]): r["at_s"] for r in records if r["kind"] == "step"},
        loss=next(r["loss"] for r in reversed(records) if r["kind"] == "step"),
        checkpoints=[r["step"] for r in records if r["kind"] == "kept_steps"],
        done_at_death=next((r["done"] for r in records if r["kind"] == "death"), None),
        kept_at_death=next((r["kept_steps"] for r in records if r["kind"] == "death"), None),
    )


@dataclass(frozen=True)
class MortalStage:
    """A stage whose second rank kills itself once, after ``KILLED_AT`` steps; ``marker`` is a file that says so."""

    stage: TrainStage
    marker: str

    @property
    def name(self) -> str:
        """That of the stage."""
        return self.stage.name

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """The events of the stage."""
        for event in self.stage.run(problem, resources, state):
            done = event.done if isinstance(event, Progress) else 0
            if resources.rank.index == 1 and done >= KILLED_AT and not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield event


def run_job(payload: SearchPayload, blobs_url: str, events: Sequence[EncodedEvent]) -> Iterator[list[dict[str, Any]]]:
    """Train on ``resources.ranks`` ranks with one thread each, and report when steps were done."""
    torch.set_num_threads(1)
    name, _, marker = payload.spec.name.partition(" ")
    # Two micro-batches, however many ranks there are: the results are to be equal.
    spec = payload.spec.model_copy(update={"resources": ResourceSpec(cpus=2, ranks=2)})
    problem, train = training_of(SIZES[name], spec)
    stage: Any = MortalStage(train, marker) if marker else train
    ranks = payload.spec.resources.training_ranks
    on_ranks = ray_data_parallel(ranks, ranks, 0)
    resources = Resources(open_blobs(blobs_url), None, time.monotonic)  # type: ignore[arg-type]  # nothing is measured
    stage_events = (
        stage.run(problem, resources, SearchState())
        if on_ranks is None
        else on_ranks(stage, problem, resources, SearchState())
    )
    done = kept_steps = 0
    for event in stage_events:
        match event:
            case Progress():
                done = int(event.done)
                yield [{"kind": "step", "done": done, "at_s": time.perf_counter(), "loss": event.values["loss"]}]
            case Checkpoint():
                kept_steps = event.step
                yield [{"kind": "kept_steps", "step": kept_steps}]
            case Warned():
                yield [{"kind": "death", "done": done, "kept_steps": kept_steps}]
            case StageFinished():
                return


def training_of(size: TrainingSize, spec: SearchSpec) -> tuple[Problem, TrainStage]:
    """Training by the sandwich rule on images of noise, for ``STEPS`` steps."""
    shape = ImageShape(3, size.pixels, size.pixels, 10)
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = generator.integers(256, size=(count, 3, size.pixels, size.pixels), dtype=np.uint8)
        return Split(images, generator.integers(shape.classes, size=count))

    few, names = split(8), tuple(map(str, range(shape.classes)))
    data = Dataset("noise", shape, split(STEPS * size.batch), few, few, names, "noise")
    space = build({"preset": size.preset, "resolutions": [size.pixels], "dropout": 0.0}, shape)
    axes = {d.axis for d in space.decisions}
    recipe = SupernetRecipe(sandwich(1, 0.01, axes), batch_size=size.batch)
    problem = Problem(spec, space, data, None, None)  # type: ignore[arg-type]  # training asks for no device
    return problem, TrainStage(recipe, CHECKPOINT_S)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="images of 128 pixels")
    parser.add_argument("--size", choices=("default", "tiny"), default="default", help="of networks (%(default)s)")


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("data_parallel", bench, about, ("torch", "numpy", "ray"), seeds=1, more=_more)
