"""Parts of a supernet on a real Ray: inside of a job on a Ray worker that holds both cores of its node."""

from __future__ import annotations

import gc
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from nas.blobs import FolderBlobs
from nas.core.errors import HwnasError
from nas.core.events import Checkpoint, Event, Progress, StageFinished, Warned, decode, encode, fold_all
from nas.core.jobs import Lease
from nas.core.ports import Resources, Stage
from nas.core.spec import DataSpec, ResourceSpec, SpaceSpec
from nas.stages.sub_supernets import SubSupernetsStage
from nas.strategies.few_shot import FEW_SHOT
from tests.support.engine import RuleDevice, problem
from tests.support.few_shot import PARAMS, SPEC
from workers.attempt import AttemptOutcome
from workers.parallel_stages import RETRIES, ray_parallel_runner
from workers.processes import descendants
from workers.ray_cluster import RayCluster, RayJob, ray_cluster

pytestmark = pytest.mark.slow

SECONDS = 240.0
STEPS = 8  # of each part, and a checkpoint after each
EXPECTED_STEPS = {
    "train.one_shot": list(range(1, 2 * STEPS + 1)),
    "train.subspace1": list(range(1, STEPS + 1)),
    "train.subspace2": list(range(1, STEPS + 1)),
}
SMALL = SPEC.model_copy(
    update={
        "space": SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4, "cells": 1}),
        "data": DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40}),
        "strategy": SPEC.strategy.model_copy(
            update={"params": {**PARAMS, "split": "random", "subspace_epochs": STEPS // 2, "checkpoint_s": 1e-9}}
        ),
    }
)


@dataclass(frozen=True)
class ScriptedStage:
    """A stage that does as it is told. ``folder`` is where those meet that run at the same time."""

    name: str
    act: str
    folder: str

    def run(self, problem: Any, resources: Any, state: Any) -> Iterator[Event]:
        if self.act == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "refuse":
            raise HwnasError("expected something else")
        Path(self.folder, self.name).touch()
        while self.act == "wait" or (self.act == "meet" and len(list(Path(self.folder).iterdir())) < 2):
            time.sleep(0.01)
        yield Progress(self.name, torch.get_num_threads(), 1)


@dataclass(frozen=True)
class Mortal:
    """A stage whose first process dies half-way."""

    stage: Any

    @property
    def name(self) -> str:
        return str(self.stage.name)

    def run(self, problem: Any, resources: Any, state: Any) -> Iterator[Event]:
        first_step = state.checkpoints[self.name].step if self.name in state.checkpoints else 0
        for event in self.stage.run(problem, resources, state):
            yield event
            if isinstance(event, Checkpoint) and event.step == STEPS // 2 > first_step:
                os.kill(os.getpid(), signal.SIGKILL)


def run_job(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """The job that ``job`` names: training the parts, of which one may be ``mortal``; or stages that do as told."""
    torch.set_num_threads(1)
    on_ray = ray_parallel_runner(2, 0)
    p, state = problem(SMALL), fold_all(decode(e) for e in events)

    def run_parallel(stages: Sequence[Stage], *world: Any) -> Iterator[Event]:
        return on_ray([Mortal(s) if s.name == job.get("mortal") else s for s in stages], *world)  # type: ignore[list-item]

    resources = Resources(FolderBlobs(Path(blobs_url)), RuleDevice(), time.monotonic, run_parallel=run_parallel)
    if job["run"] == "parts":
        stage_events = parts_stage().run(p, resources, state)
    else:
        scripted_stages = [ScriptedStage(f"part.{i}", act, job["folder"]) for i, act in enumerate(job["acts"])]
        stage_events = on_ray(scripted_stages, p, resources, state)  # type: ignore[arg-type]
    yield from ([encode(event)] for event in stage_events)


def parts_stage() -> SubSupernetsStage:
    [stage] = [s for s in FEW_SHOT.stages(problem(SMALL)) if isinstance(s, SubSupernetsStage)]
    return stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[RayCluster]:
    options = {"blobs_url": str(folder / "blobs"), "run_job": "tests.integration.test_parallel_stages:run_job"}
    with ray_cluster(None, folder / "ray", cpus=2, **options) as ray:
        yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets and processes to the collector
        gc.collect()


@pytest.fixture(scope="module")
def before(folder: Path) -> list[Event]:
    """What comes before the parts."""
    torch.set_num_threads(1)
    p, resources = problem(SMALL), Resources(FolderBlobs(folder / "blobs"), RuleDevice(), time.monotonic)
    events: list[Event] = []
    for stage in FEW_SHOT.stages(p)[:3]:
        for event in stage.run(p, resources, fold_all(events)):
            events.append(event)
    return events


@pytest.fixture(scope="module")
def expected(folder: Path, before: list[Event]) -> list[Event]:
    """The parts one after another, in this process."""
    resources = Resources(FolderBlobs(folder / "blobs"), RuleDevice(), time.monotonic)
    return list(parts_stage().run(problem(SMALL), resources, fold_all(before)))


def start(cluster: RayCluster, events: Sequence[Event] = (), **job: Any) -> RayJob:
    lease = Lease("parts", 1, 0.0, job, tuple(encode(e) for e in events))
    return cluster.start(lease, ResourceSpec(cpus=2), cluster.nodes()[0])


def follow(task: RayJob) -> Iterator[Event]:
    """The events of a job to its end."""
    while not isinstance(outcome := task.poll(SECONDS), AttemptOutcome):
        assert outcome is not None, task.dump_stacks()
        yield from map(decode, outcome)
    if outcome.status != "succeeded":
        raise HwnasError(f"{outcome.status}: {outcome.message}")


def steps_of(events: Sequence[Event]) -> dict[str, list[int]]:
    """The steps at which each part was kept, in order."""
    steps_by_part: dict[str, list[int]] = {}
    for e in events:
        if isinstance(e, Checkpoint):
            steps_by_part.setdefault(e.stage, []).append(e.step)
    return steps_by_part


def wait_until_gone(title: str) -> None:
    deadline = time.monotonic() + SECONDS
    while processes(title):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes(title: str) -> list[int]:
    """The Ray workers below this process that run a task of such a name."""
    process_ids = []
    for pid in (int(name.split(":")[1]) for name in descendants(os.getpid())):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words.startswith(f"ray::{title}".encode()):
            process_ids.append(pid)
    return process_ids


@pytest.mark.long
def test_interrupted_parallel_training_equals_sequential_training(
    cluster: RayCluster, before: list[Event], expected: list[Event]
) -> None:
    """The job ends with its processes; later each part goes on from its own last checkpoint, and so does, by itself,
    the one whose process dies."""
    events: list[Event] = []
    task = start(cluster, before, run="parts")
    for event in follow(task):
        events.append(event)
        if {"train.one_shot", "train.subspace1"} <= set(steps_of(events)):
            break
    task.kill()
    wait_until_gone("train.")
    assert not [e for e in events if isinstance(e, Warned)]
    done = steps_of(events)
    mortal = min(
        EXPECTED_STEPS, key=lambda name: (len(done.get(name, [])), name)
    )  # on a busy machine any may be behind
    later_events = list(follow(start(cluster, [*before, *events], run="parts", mortal=mortal)))
    assert isinstance(later_events[-1], StageFinished)
    assert later_events[-1] == expected[-1]
    assert steps_of(expected[:-2]) == EXPECTED_STEPS
    assert steps_of([*events, *later_events[:-2]]) == EXPECTED_STEPS  # no step was done twice
    [warning] = [e for e in later_events if isinstance(e, Warned)]
    assert warning.stage == mortal
    at = later_events.index(warning)
    assert f"continues after step {steps_of(later_events[:at])[mortal][-1]}" in warning.message


@pytest.mark.long
def test_stages_run_in_parallel_and_share_the_cores(cluster: RayCluster, tmp_path: Path) -> None:
    def threads(*acts: str) -> list[int]:
        task = start(cluster, run="told", acts=acts, folder=str(tmp_path))
        return [e.done for e in follow(task) if isinstance(e, Progress)]

    assert threads("meet", "meet", "end") == [1, 1, 1]
    assert threads("end") == [2]


@pytest.mark.long
def test_failing_stage_fails_the_job_and_ends_the_remaining_stages(cluster: RayCluster, tmp_path: Path) -> None:
    with pytest.raises(HwnasError, match=f"died {RETRIES + 1} times in a row"):
        list(follow(start(cluster, run="told", acts=["die"], folder=str(tmp_path))))
    with pytest.raises(HwnasError, match="failed: expected something else"):
        list(follow(start(cluster, run="told", acts=["wait", "refuse"], folder=str(tmp_path))))
    wait_until_gone("part.")
