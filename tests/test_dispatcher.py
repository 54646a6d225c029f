"""The dispatcher: first its parts, then jobs on a real local Ray, whose workers are killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Progress, StageStarted
from nas.core.ports import Lease, Verdict
from nas.core.views import SearchView
from server.store.jobs import SqlJobStore
from server.store.store import Store, open_store
from tests import fakes
from workers import dispatcher
from workers.processes import is_dead, owner_name
from workers.ray_cluster import Cluster, ray_cluster

ray = pytest.importorskip("ray")

SECONDS = 60.0


def test_only_progress_that_is_replaced_is_left_out() -> None:
    events = fakes.records(
        [
            Progress("a", 1, 9),
            StageStarted("b", 1, 2),
            Progress("b", 1, 9),
            Progress("a", 2, 9),
            Checkpoint("b", 1, "0" * 64),
            Progress("b", 2, 9),
        ]
    )
    assert dispatcher.coalesce(events) == [events[1], events[3], events[4], events[5]]


def lease(spec: Mapping[str, Any]) -> Lease:
    return Lease("id", "search", {"spec": spec, "resolved": {}}, 1, 0.0)


def test_placement_comes_from_the_spec() -> None:
    wanted = {"cpus": 2, "gpus": 1, "memory_gb": 1.5, "labels": {"gpu": "a100"}}
    assert dispatcher.placement(lease({"resources": wanted})) == {
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": 1.5e9,
        "label_selector": {"gpu": "a100"},
    }
    assert dispatcher.placement(lease({"threads": 3})) == {"num_cpus": 3, "num_gpus": 0}


def test_a_process_is_known_dead_only_when_it_is() -> None:
    code = "import sys; from workers.processes import owner_name; print(owner_name(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        name = child.stdout.readline().decode().strip()
        assert f":{child.pid}:" in name
        assert not is_dead(name)
        child.kill()
        child.wait()
        assert is_dead(name)
    assert not is_dead(owner_name())
    host, pid, start = owner_name().split(":")
    assert is_dead(f"{host}:{pid}:{start}0")  # another process had this number before
    assert not is_dead(f"elsewhere:{pid}:0")


class Watched:
    """The jobs of a store, with a hook on what is appended and a way to wait for the end of a job."""

    def __init__(self, jobs: SqlJobStore) -> None:
        self._jobs = jobs
        self.on_append: Callable[[Lease, Sequence[Mapping[str, Any]]], None] = lambda *_: None
        self.ends = threading.Semaphore(0)
        self.lost = threading.Semaphore(0)
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> Verdict:
        verdict = self._jobs.append(lease, batch, events, seconds)
        self.appends += 1
        if verdict == "lost":
            self.lost.release()
        self.on_append(lease, events)
        return verdict

    def finish(self, lease: Lease, status: Any, error: str | None = None) -> bool:
        done = self._jobs.finish(lease, status, error)
        self.ends.release()
        return done

    def release(self, lease: Lease, crash: str | None = None) -> bool:
        done = self._jobs.release(lease, crash)
        if crash is None:
            self.ends.release()
        return done


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its own processes
        with ray_cluster(None, cpus=2) as started:
            yield started
        gc.collect()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as opened:
        fakes.add_device(opened)
        yield opened


@pytest.fixture
def watched(store: Store) -> Watched:
    return Watched(store.jobs)


@pytest.fixture
def running(watched: Watched, cluster: Cluster, tmp_path: Path) -> Iterator[dispatcher.Dispatcher]:
    started = dispatcher.Dispatcher(
        watched,
        cluster,
        str(tmp_path / "blobs"),
        owner_name(),
        run_job="tests.fakes:run_fake_job",
        lease_seconds=30.0,
        poll_seconds=0.05,
    )
    started.start()
    yield started
    started.stop()


def submit(store: Store, act: str, **changes: Any) -> str:
    spec = fakes.search_spec(strategy={"name": "plain", "params": {"act": act}}, **changes)
    return fakes.add_search(store, spec)


def ended(store: Store, watched: Watched, search: str) -> SearchView:
    assert watched.ends.acquire(timeout=SECONDS)
    return store.queries.search(search)


def kinds(store: Store, search: str) -> list[str]:
    page, _ = store.queries.events(search, 0, 1000)
    return [e.body["kind"] for e in page.items if e.body["kind"] not in ("progress", "status")]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_job_runs_to_its_end(store: Store, watched: Watched) -> None:
    search = submit(store, "end")
    view = ended(store, watched, search)
    assert (view.status, view.error, view.attempts) == ("succeeded", None, 1)
    assert kinds(store, search) == ["stage_started", *["checkpoint"] * 3, "stage_finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_job_goes_on_after_its_worker_was_killed(store: Store, watched: Watched) -> None:
    killed: list[int] = []

    def kill(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        if not killed and any(e["kind"] == "checkpoint" for e in events):
            page, _ = store.queries.events(search, 0, 100)
            killed.append(int(next(e.body["values"]["pid"] for e in page.items if e.body["kind"] == "progress")))
            os.kill(killed[0], signal.SIGKILL)

    watched.on_append = kill
    search = submit(store, "hang")
    view = ended(store, watched, search)
    assert len(killed) == 1
    assert (view.status, view.attempts) == ("succeeded", 2)
    assert view.stages[0].result == {"steps_known": 1}
    assert kinds(store, search).count("checkpoint") == 3  # none was lost, none made twice


@pytest.mark.slow
@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("act", "changes", "words"),
    [
        ("refuse", {}, "unknown colour 'blu': expected one of blue. Did you mean 'blue'?"),
        ("bug", {}, "ZeroDivisionError: a bug"),
    ],
)
def test_a_job_fails_once_with_its_reason(
    store: Store, watched: Watched, act: str, changes: dict[str, Any], words: str
) -> None:
    view = ended(store, watched, submit(store, act, **changes))
    assert (view.status, view.attempts) == ("failed", 1)
    assert words in (view.error or "")


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_silent_job_is_cancelled(store: Store, watched: Watched) -> None:
    def cancel(lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        if any(e["kind"] == "checkpoint" for e in events):
            store.jobs.cancel(lease.job_id)

    watched.on_append = cancel
    search = submit(store, "forever")
    assert watched.lost.acquire(timeout=SECONDS)
    view = store.queries.search(search)
    assert (view.status, view.error) == ("cancelled", None)
    assert kinds(store, search) == ["stage_started", "checkpoint"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_what_no_node_can_hold_is_refused_at_once(store: Store, watched: Watched) -> None:
    ended(store, watched, submit(store, "end"))  # by now the dispatcher has said what there is
    with pytest.raises(InvalidSpec, match=r"expected at most 2 CPU cores.*got a request for 64 CPU cores"):
        submit(store, "end", resources={"cpus": 64})


@pytest.mark.slow
def test_stopping_puts_the_job_back(store: Store, watched: Watched, running: dispatcher.Dispatcher) -> None:
    seen = threading.Event()
    watched.on_append = lambda _lease, events: seen.set() if any(e["kind"] == "checkpoint" for e in events) else None
    search = submit(store, "forever")
    assert seen.wait(SECONDS)
    assert store.queries.counts(30.0) == (1, 0, 1)
    running.stop()
    assert store.queries.search(search).status == "queued"
    assert store.queries.counts(30.0) == (0, 1, 0)
    again = store.jobs.claim("other", 10.0)
    assert again is not None
    assert [e["kind"] for e in again.events if e["kind"] != "progress"] == ["stage_started", "checkpoint"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_job_that_was_lost_is_forgotten(store: Store, watched: Watched) -> None:
    taken = threading.Event()

    def take(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        if not taken.is_set() and any(e["kind"] == "checkpoint" for e in events):
            store.jobs.release_dead(lambda _owner: True)
            assert store.jobs.claim("other", 1e6) is not None
            taken.set()

    watched.on_append = take
    search = submit(store, "forever")
    assert taken.wait(SECONDS)
    follower = submit(store, "end")  # runs only once the lost one has let go
    assert ended(store, watched, follower).status == "succeeded"
    assert store.queries.search(search).status == "running"
    assert kinds(store, search) == ["stage_started", "checkpoint"]


@pytest.mark.slow
def test_the_local_cluster_listens_on_loopback_only(cluster: Cluster) -> None:
    assert [(room.cpus, room.labels) for room in cluster.nodes()] == [(2.0, {})]
    assert [room.cpus <= 2.0 for room in cluster.free()] == [True]
    assert cluster.alive()
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
