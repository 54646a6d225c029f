"""A supernet that two processes train together, started by Ray Train inside of a job on a real Ray."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from nas.blobs import FolderBlobs
from nas.core.errors import HwnasError
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Warned, decode, encode
from nas.core.jobs import Lease
from nas.core.ports import Resources
from nas.core.spec import DataSpec, ResourceSpec, SpaceSpec
from nas.stages.results import TrainResult
from nas.stages.train import TrainStage
from nas.training.progressive import SupernetRecipe
from nas.training.schedules import sandwich
from nas.training.state import TrainState
from tests.support.engine import SPACE, SPEC, RuleDevice, problem
from workers.attempt import AttemptOutcome
from workers.data_parallel import ray_data_parallel
from workers.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.slow

SECONDS = 240.0
SMALL = SPEC.model_copy(
    update={
        "space": SpaceSpec(params={**SPACE, "dropout": 0.0}),
        "data": DataSpec(params={"max_train": 160, "max_val": 40, "max_test": 40}),
        "resources": ResourceSpec(cpus=2, ranks=2),
    }
)
STEPS = 6
STAGE = TrainStage(SupernetRecipe(sandwich(2, 0.05, {"kernel", "depth", "expand", "width"}), batch_size=40), 1e-9)


@dataclass(frozen=True)
class MortalRank:
    """The stage, whose second rank dies once after its third step; or whose ranks refuse to go on."""

    stage: TrainStage
    act: str
    marker: str

    @property
    def name(self) -> str:
        return self.stage.name

    def run(self, problem: Any, resources: Any, state: Any) -> Iterator[Event]:
        ticks = itertools.count()  # a clock by which every step is reported
        resources = replace(resources, clock=lambda: float(next(ticks)))
        for event in self.stage.run(problem, resources, state):
            yield event
            if isinstance(event, Progress) and event.done >= 3 and resources.rank.index == 1:
                if self.act == "refuse":
                    raise HwnasError("expected something else")
                if not Path(self.marker).exists():
                    Path(self.marker).touch()
                    os.kill(os.getpid(), signal.SIGKILL)


def run_job(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """The training that ``job`` describes."""
    torch.set_num_threads(1)
    stage: Any = MortalRank(STAGE, job["act"], job["marker"]) if job["act"] else STAGE
    on_ranks = ray_data_parallel(2, 2, 0)
    assert on_ranks is not None
    resources = Resources(FolderBlobs(Path(blobs_url)), RuleDevice(), time.monotonic)
    for event in on_ranks(stage, problem(SMALL), resources, SearchState()):
        yield [encode(event)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[RayCluster]:
    options = {"blobs_url": str(folder / "blobs"), "run_job": "tests.integration.test_data_parallel:run_job"}
    with ray_cluster(None, folder / "ray", cpus=2, **options) as ray:
        yield ray


def run_on_ranks(cluster: RayCluster, folder: Path, act: str = "") -> tuple[list[Event], AttemptOutcome]:
    payload: Any = {"act": act, "marker": str(folder / f"{act}.died")}
    job = cluster.start(Lease(act or "plain", 1, 0.0, payload), ResourceSpec(cpus=2), cluster.nodes()[0])
    events: list[Event] = []
    deadline = time.monotonic() + SECONDS
    while not isinstance(outcome := job.poll(10.0), AttemptOutcome):
        assert time.monotonic() < deadline, job.dump_stacks()
        events += [decode(e) for e in outcome or []]
    return events, outcome


def net_of(folder: Path, events: Sequence[Event]) -> Mapping[str, torch.Tensor]:
    blob = TrainResult.parse(next(e for e in events if isinstance(e, StageFinished)).result).blob
    weights = TrainState.from_bytes(FolderBlobs(folder / "blobs").get(blob), "cpu").weights
    assert weights is not None
    return weights["net"]


@pytest.fixture(scope="module")
def of_one_rank(folder: Path) -> Mapping[str, torch.Tensor]:
    """The weights that one process trains, in as many micro-batches."""
    torch.set_num_threads(1)
    resources = Resources(FolderBlobs(folder / "blobs"), RuleDevice(), time.monotonic)
    return net_of(folder, list(STAGE.run(problem(SMALL), resources, SearchState())))


@pytest.mark.long
def test_two_ranks_train_as_one(cluster: RayCluster, folder: Path, of_one_rank: Mapping[str, torch.Tensor]) -> None:
    events, outcome = run_on_ranks(cluster, folder)
    assert outcome.status == "succeeded", outcome.message
    assert not [e for e in events if isinstance(e, Warned)]
    steps = [e.step for e in events if isinstance(e, Checkpoint)]
    assert steps == list(range(1, STEPS + 1))
    result = TrainResult.parse(next(e for e in events if isinstance(e, StageFinished)).result)
    assert result.execution == {"precision": "float32", "micro_batches": 2, "ranks": 2}
    for name, value in net_of(folder, events).items():
        assert torch.equal(value, of_one_rank[name]), name


@pytest.mark.long
def test_a_dead_rank_costs_no_more_than_an_interval(
    cluster: RayCluster, folder: Path, of_one_rank: Mapping[str, torch.Tensor]
) -> None:
    events, outcome = run_on_ranks(cluster, folder, "die")
    assert outcome.status == "succeeded", outcome.message
    (warning,) = [e.message for e in events if isinstance(e, Warned)]
    assert "a training process died" in warning
    assert "2 of 2 ranks go on after step" in warning
    steps = [e.step for e in events if isinstance(e, Checkpoint)]
    assert steps == list(range(1, STEPS + 1))  # none is done twice: each was kept
    for name, value in net_of(folder, events).items():
        assert torch.equal(value, of_one_rank[name]), name


@pytest.mark.long
def test_an_error_of_any_rank_ends_the_training(cluster: RayCluster, folder: Path) -> None:
    events, outcome = run_on_ranks(cluster, folder, "refuse")
    assert (outcome.status, outcome.message) == ("failed", "expected something else")
    assert not [e for e in events if isinstance(e, StageFinished)]
