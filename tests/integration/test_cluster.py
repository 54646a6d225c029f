"""A cluster of two real Ray nodes on loopback: placement by label and free resources, and a killed node."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
from ray._private.authentication_test_utils import reset_auth_token_state

from nas.core.jobs import Lease
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.dispatching import ObservedJobs, ended, kinds, submit
from tests.support.ray_nodes import RayNode, ray_environment, two_nodes
from workers.dispatcher import Dispatcher
from workers.processes import own_process_name
from workers.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.slow

SECONDS = 90.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, RayNode]]:
    folder = Path(tempfile.mkdtemp(prefix="nas-"))  # short, since sockets lie in it
    environment = ray_environment()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        reset_auth_token_state()  # Ray has read the environment when it was imported
        try:
            with two_nodes(folder, {**os.environ}) as cluster:
                patch.setenv("NAS_TEST_RAY", cluster.address)
                patch.setattr("ray._private.services.get_node_ip_address", lambda address=None: "127.0.0.1")
                yield {"west": cluster.west, "east": cluster.east}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    reset_auth_token_state()


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def cluster(nodes: dict[str, RayNode], blobs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        options = {"blobs_url": blobs, "run_job": "tests.support.fakes:run_fake_job"}
        with ray_cluster(os.environ["NAS_TEST_RAY"], tmp_path_factory.mktemp("records"), **options) as joined:
            deadline = time.monotonic() + SECONDS
            while len(joined.nodes()) < 2:
                assert nodes["east"].child.poll() is None, nodes["east"].log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield joined
        gc.collect()


@pytest.fixture
def store(tmp_path: Path, blobs: str) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", blobs) as opened:
        fakes.add_device(opened)
        yield opened


@pytest.fixture
def watched(store: Store) -> ObservedJobs:
    return ObservedJobs(store.jobs)


@pytest.fixture
def running(watched: ObservedJobs, cluster: RayCluster) -> Iterator[Dispatcher]:
    started = Dispatcher(watched, cluster, own_process_name(), lease_seconds=30.0, poll_seconds=0.05, parallel_jobs=4)
    started.start()
    yield started
    started.stop(0.0)


def raylets_of(store: Store, searches: Sequence[str]) -> list[int]:
    """The raylet above the worker of each search."""
    parents = []
    for search in searches:
        page, _ = store.queries.events(search, 0, 100)
        pid = next(int(e.body["values"]["pid"]) for e in page.items if e.body["kind"] == "progress")
        parents.append(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]))
    return parents


@pytest.mark.long
def test_nodes_have_labels_and_listen_on_loopback_only(cluster: RayCluster) -> None:
    import ray

    assert sorted((n.total.cpus, n.total.labels["zone"]) for n in cluster.nodes()) == [(1.0, "east"), (1.0, "west")]
    assert {n["NodeManagerAddress"] for n in ray.nodes()} == {"127.0.0.1"}
    assert cluster.elastic
    assert cluster.failure() is None


@pytest.mark.usefixtures("running")
def test_jobs_are_placed_by_free_resources_and_labels(
    store: Store, watched: ObservedJobs, nodes: dict[str, RayNode]
) -> None:
    going = threading.Semaphore(0)
    nodes_used: set[str] = set()
    places: dict[str, int] = {}

    def record_nodes(lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        if lease.job_id not in nodes_used and any(e["kind"] == "checkpoint" for e in events):
            nodes_used.add(lease.job_id)
            [places[lease.job_id]] = raylets_of(store, [lease.job_id])
            going.release()

    watched.on_append = record_nodes
    first, second = submit(store, "forever"), submit(store, "forever")
    east = submit(store, "end", resources={"labels": {"zone": "east"}})
    for _ in range(2):
        assert going.acquire(timeout=SECONDS)
    assert {places[first], places[second]} == {node.raylet() for node in nodes.values()}  # one on each
    assert store.queries.search(east).status == "queued"  # its node is full
    for search in (first, second):
        store.jobs.cancel(search)
    assert ended(store, watched, east).status == "succeeded"
    assert places[east] == nodes["east"].raylet()


@pytest.mark.usefixtures("running")
def test_job_continues_on_another_node_when_its_node_is_killed(
    store: Store, watched: ObservedJobs, nodes: dict[str, RayNode], cluster: RayCluster
) -> None:
    """Last, since the node does not come back."""
    killed = threading.Event()

    def kill(lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        is_hanging = lease.payload.spec.strategy.params["act"] == "hang"
        if is_hanging and not killed.is_set() and any(e["kind"] == "checkpoint" for e in events):
            os.kill(nodes["east"].raylet(), signal.SIGKILL)
            killed.set()

    watched.on_append = kill
    blocker = submit(store, "forever", resources={"labels": {"zone": "west"}})
    search = submit(store, "hang")
    assert killed.wait(SECONDS)
    store.jobs.cancel(blocker)
    view = ended(store, watched, search)
    assert view.status == "succeeded", view.error
    assert view.attempts >= 2
    assert view.stages[0].result["steps_known"] >= 1  # it continued from a checkpoint
    assert kinds(store, search).count("stage_finished") == 1
    assert kinds(store, search).count("checkpoint") == 3
    assert cluster.failure() is None

    def zones() -> list[str]:
        return [node.total.labels["zone"] for node in cluster.nodes()]

    deadline = time.monotonic() + SECONDS  # Ray declares a node dead after some missed health checks
    while zones() != ["west"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert zones() == ["west"]
