"""Data sets prepared by Ray tasks: inside of a job on a Ray worker that holds both cores of its node."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from nas.core.errors import HwnasError
from nas.core.events import Event, Progress, Warned, decode, encode
from nas.core.jobs import Lease
from nas.core.records import ImageRead, Storage
from nas.core.spec import DataSpec, ResourceSpec
from nas.datasets.folder import records
from nas.datasets.prepared import prepare as preparing
from nas.datasets.prepared.prepare import prepare
from nas.datasets.records import EncodedRecords
from nas.datasets.storage import Preparation, loading
from tests.support.image_files import read_data
from tests.support.prepared import write_data
from workers.attempt import AttemptOutcome
from workers.preparing import shard_writer
from workers.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.slow

SECONDS = 240.0


@dataclass(frozen=True)
class MortalRecords(EncodedRecords):
    """Records whose first reader dies, leaving a ``note``."""

    note: Path = Path()

    def read(self, split: str, start: int, stop: int, storage: Storage) -> Iterator[ImageRead]:
        if not self.note.exists():
            self.note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(split, start, stop, storage)


def run_job(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Prepare the data set that ``job`` names, with a source that is ``mortal`` if it says so."""
    preparing.SHARD_BYTES = 5 * 8 * 8 * 3
    spec, cache = DataSpec.model_validate(job["data"]), Path(job["cache"])
    if "mortal" in job:
        source = MortalRecords(**vars(records(spec)), note=Path(job["mortal"]))
        steps = prepare(source, "decoded", cache, shard_writer(2))
        yield from ([encode(Progress("prepare", step.records, step.total))] for step in steps)
        return
    steps = loading(spec, Preparation(cache, shard_writer(2)))
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            yield [encode(Warned("prepare", end.value.content_hash))]
            return
        yield [encode(Progress("prepare", step.records, step.total))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    options = {"blobs_url": str(folder / "blobs"), "run_job": "tests.integration.test_preparing:run_job"}
    with ray_cluster(None, folder / "ray", cpus=2, **options) as ray:
        yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets and processes to the collector
        gc.collect()


def events_of(cluster: RayCluster, **job: Any) -> list[Event]:
    """The events of a job to its end. Raises HwnasError if it fails."""
    task = cluster.start(Lease("data", 1, 0.0, job, ()), ResourceSpec(cpus=2), cluster.nodes()[0])
    events: list[Event] = []
    while not isinstance(outcome := task.poll(SECONDS), AttemptOutcome):
        assert outcome is not None, task.dump_stacks()
        events += map(decode, outcome)
    if outcome.status != "succeeded":
        raise HwnasError(f"{outcome.status}: {outcome.message}")
    return events


def test_ray_tasks_prepare_what_one_process_would(cluster: RayCluster, tmp_path: Path) -> None:
    spec = write_data("parquet", tmp_path / "source", count=90)
    asked = spec.model_copy(update={"params": {"storage": "decoded"}})
    *steps, last = events_of(cluster, data=asked.model_dump(), cache=str(tmp_path / "cache"))
    assert isinstance(last, Warned)
    assert last.message == read_data(spec).content_hash
    done = [step.done for step in steps if isinstance(step, Progress)]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 90)


def test_a_task_whose_process_dies_is_run_again(cluster: RayCluster, tmp_path: Path) -> None:
    spec = write_data("folder", tmp_path / "source", count=30)
    job = {"data": spec.model_dump(), "cache": str(tmp_path / "cache"), "mortal": str(tmp_path / "died")}
    *_, last = events_of(cluster, **job)
    assert isinstance(last, Progress)
    assert (last.done, last.total) == (30, 30)
    assert (tmp_path / "died").exists()


def test_what_a_task_refuses_is_told(cluster: RayCluster, tmp_path: Path) -> None:
    spec = write_data("folder", tmp_path / "source", count=30)
    (tmp_path / "source" / "images" / "cat" / "010.png").write_bytes(b"no image")
    asked = spec.model_copy(update={"params": {"storage": "decoded"}})
    with pytest.raises(HwnasError, match=r"010\.png: cannot be decoded"):
        events_of(cluster, data=asked.model_dump(), cache=str(tmp_path / "cache"))
