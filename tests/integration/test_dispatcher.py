"""The dispatcher: its parts first, then jobs on a real local Ray whose workers are killed."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nas.core.errors import InvalidSpec
from nas.core.jobs import Lease, LeaseToken
from nas.core.scheduling import NodeResources, required_resources
from nas.core.spec import ResourceSpec
from server.logs import JsonFormatter
from server.store.database import writing
from server.store.models import Job
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.dispatching import SECONDS, ObservedJobs, ended, kinds, submit
from workers import attempt, dispatcher
from workers.attempt import AttemptOutcome
from workers.placement import Node, choose_node, subtract_reserved
from workers.processes import _start_time, is_dead, own_process_name
from workers.ray_cluster import RayCluster, ray_cluster

ray = pytest.importorskip("ray")

STUCK_S = 4.0


def node(name: str, cpus: float, gpus: float = 0.0, free: float | None = None, **labels: str) -> Node:
    total = NodeResources(cpus, gpus, 8.0, labels)
    return Node(name, total, replace(total, cpus=cpus if free is None else free))


def test_required_resources_come_from_the_spec() -> None:
    resources = {"cpus": 2, "gpus": 1, "memory_gb": 1.5, "labels": {"gpu": "a100"}}
    assert required_resources(fakes.search_spec(resources=resources)) == ResourceSpec.model_validate(resources)
    assert required_resources(fakes.device_spec(threads=3)) == ResourceSpec(cpus=3)


def test_choose_node_prefers_the_plainest_node_that_fits() -> None:
    nodes = [node("gpus", 8, 4, gpu="a100"), node("full", 8, free=1), node("plain", 4), node("wide", 8)]

    def where(avoid: Sequence[str] = (), **required: Any) -> str | None:
        node = choose_node(ResourceSpec.model_validate(required), nodes, avoid)
        return None if node is None else node.id

    assert where(cpus=2) == "wide"
    assert where(["wide"], cpus=2) == "plain"
    assert where(["wide"], cpus=8) == "gpus"
    assert where(["wide", "gpus"], cpus=8) in ("wide", "gpus")  # an avoided node is better than none
    assert where(gpus=1) == "gpus"
    assert where(labels={"gpu": "a100"}) == "gpus"
    assert where(labels={"gpu": "h100"}) is None
    assert where(cpus=9) is None
    assert where(memory_gb=9.0) is None


def test_subtract_reserved_precedes_the_report_of_the_cluster() -> None:
    reserved = {"one": [ResourceSpec(cpus=3, memory_gb=2.0), ResourceSpec(cpus=1)]}
    [one, two] = subtract_reserved([node("one", 8), node("two", 8, free=2)], reserved)
    assert (one.free.cpus, one.free.memory_gb, one.total.cpus) == (4, 6.0, 8)
    assert two.free.cpus == 2


def test_is_dead_only_after_the_process_has_ended() -> None:
    code = (
        "import sys; from workers.processes import own_process_name; "
        "print(own_process_name(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        name = child.stdout.readline().decode().strip()
        assert f":{child.pid}:" in name
        assert not is_dead(name)
        child.kill()
        child.wait()
        assert is_dead(name)
    assert not is_dead(own_process_name())
    host, pid, start = own_process_name().split(":")
    assert is_dead(f"{host}:{pid}:{start}0")  # another process with a reused id
    assert not is_dead(f"elsewhere:{pid}:0")


class IdleJob:
    """A running job that does nothing until its end is set."""

    has_started = True

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.outcome = AttemptOutcome("succeeded")
        self.killed = threading.Event()

    def poll(self, timeout_s: float) -> AttemptOutcome | None:
        return self.outcome if self.ends.wait(min(timeout_s, 0.02)) else None

    def kill(self) -> None:
        self.killed.set()

    def dump_stacks(self) -> str:
        return ""


class FakeCluster:
    """A cluster of made-up nodes that runs idle jobs."""

    elastic = False

    def __init__(self, *nodes: Node) -> None:
        self.all = list(nodes)
        self.running: dict[str, IdleJob] = {}
        self.placed: list[tuple[str, str]] = []
        self.started = threading.Semaphore(0)

    def nodes(self) -> list[Node]:
        return self.all

    def start(self, lease: Lease, required: ResourceSpec, node: Node) -> IdleJob:
        self.running[lease.job_id] = job = IdleJob()
        self.placed.append((lease.job_id, node.id))
        self.started.release()
        return job


@pytest.fixture
def fake_cluster() -> FakeCluster:
    return FakeCluster(node("one", 2), node("two", 1, zone="east"))


@pytest.fixture
def idle(watched: ObservedJobs, fake_cluster: FakeCluster) -> Iterator[dispatcher.Dispatcher]:
    """A dispatcher whose cycles are run by the test."""
    idle_dispatcher = dispatcher.Dispatcher(watched, fake_cluster, "us", parallel_jobs=8, lease_seconds=30.0)
    yield idle_dispatcher
    idle_dispatcher.abandon("the test is over")
    for active in idle_dispatcher._attempts.values():
        active.thread.join()


def run_cycle(idle: dispatcher.Dispatcher) -> None:
    idle._reconciled_at = idle._heartbeat_at = -1e9
    idle._run_cycle()


def test_claims_only_jobs_that_fit_and_places_them(
    store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster
) -> None:
    labelled = submit(store, "end", resources={"labels": {"zone": "east"}})
    wide = submit(store, "end", resources={"cpus": 2})
    late = submit(store, "end")
    run_cycle(idle)
    assert fake_cluster.placed == [(labelled, "two"), (wide, "one")]
    assert store.queries.search(late).status == "queued"
    fake_cluster.running[wide].ends.set()
    idle._attempts[LeaseToken(wide, 1)].thread.join()
    run_cycle(idle)
    assert fake_cluster.placed[2:] == [(late, "one")]


def test_log_records_of_an_attempt_have_its_job_as_a_field(
    store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[dict[str, Any]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    handler = Collect()
    with caplog.at_level(logging.INFO, logger=dispatcher.log.name):
        dispatcher.log.addHandler(handler)
        search = submit(store, "end")
        run_cycle(idle)
        fake_cluster.running[search].ends.set()
        idle._attempts[LeaseToken(search, 1)].thread.join()
        dispatcher.log.removeHandler(handler)
    assert [(line["job"], line["message"].partition(": ")[2]) for line in lines] == [
        (search, "claimed with token 1, on node one"),
        (search, "succeeded"),
    ]


def test_lease_without_a_running_job_is_released(store: Store, idle: dispatcher.Dispatcher) -> None:
    search = submit(store, "end", resources={"cpus": 2})
    assert store.jobs.claim("us", 1e6) is not None  # and the response was lost
    idle._parallel_jobs = 0
    run_cycle(idle)
    assert store.queries.search(search).status == "queued"


def test_running_job_without_a_lease_is_killed(
    store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster
) -> None:
    search = submit(store, "end")
    run_cycle(idle)
    assert store.jobs.leases_of("us") == [LeaseToken(search, 1)]
    store.jobs.release_dead(lambda owner: owner == "us")
    assert store.jobs.claim("another", 1e6) is not None
    run_cycle(idle)
    assert fake_cluster.running[search].killed.wait(SECONDS)
    assert store.queries.search(search).status == "running"
    assert store.jobs.leases_of("another") == [LeaseToken(search, 2)]


def test_jobs_of_a_lost_cluster_return_to_the_queue_with_the_reason(
    store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster
) -> None:
    search = submit(store, "end")
    run_cycle(idle)
    idle.abandon("Ray's raylet has ended")
    idle._attempts[LeaseToken(search, 1)].thread.join()
    assert store.queries.search(search).status == "queued"
    assert not fake_cluster.running[search].killed.is_set()  # a lost cluster is not accessed


def test_node_is_avoided_after_a_crash(store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster) -> None:
    fake_cluster.all = [node("one", 2), node("two", 1)]
    first = submit(store, "end")
    run_cycle(idle)
    assert fake_cluster.placed == [(first, "one")]
    idle._attempts[LeaseToken(first, 1)].runner.abort("crashed", "its worker died")
    idle._attempts[LeaseToken(first, 1)].thread.join()
    run_cycle(idle)
    assert fake_cluster.placed[1:] == [(first, "two")]


def test_storage_error_of_a_worker_is_tried_again_later(
    store: Store, idle: dispatcher.Dispatcher, fake_cluster: FakeCluster
) -> None:
    search = submit(store, "end")
    run_cycle(idle)
    job = fake_cluster.running[search]
    job.outcome = AttemptOutcome("unstored", "blob 42 cannot be read: connection refused")
    job.ends.set()
    idle._attempts[LeaseToken(search, 1)].thread.join()
    view = store.queries.search(search)
    assert (view.status, view.error) == ("queued", None)
    assert view.waiting is not None
    assert re.fullmatch(r"tries again in [345] s, after: blob 42 .* refused, position 1 of 1", view.waiting)
    run_cycle(idle)
    assert len(fake_cluster.placed) == 1  # not yet
    with writing(store.queries._engine) as session:
        session.get_one(Job, search).available_at = 0.0
    run_cycle(idle)
    assert len(fake_cluster.placed) == 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its own processes
        options = {"blobs_url": str(folder / "blobs"), "run_job": "tests.support.fakes:run_fake_job"}
        with ray_cluster(None, folder / "records", cpus=2, **options) as started:
            yield started
        gc.collect()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as opened:
        fakes.add_device(opened)
        yield opened


@pytest.fixture
def watched(store: Store) -> ObservedJobs:
    return ObservedJobs(store.jobs)


@pytest.fixture
def running(watched: ObservedJobs, cluster: RayCluster) -> Iterator[dispatcher.Dispatcher]:
    started = dispatcher.Dispatcher(
        watched,
        cluster,
        own_process_name(),
        lease_seconds=30.0,
        stuck_seconds=STUCK_S,
        poll_seconds=0.05,
    )
    started.start()
    yield started
    started.stop(0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_job_succeeds(store: Store, watched: ObservedJobs) -> None:
    search = submit(store, "end")
    view = ended(store, watched, search)
    assert (view.status, view.error, view.attempts) == ("succeeded", None, 1)
    reported = [kind for kind in kinds(store, search) if kind != "warned"]  # of silence, on a busy machine
    assert reported == ["stage_started", *["checkpoint"] * 3, "stage_finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_job_continues_after_its_worker_was_killed(store: Store, watched: ObservedJobs) -> None:
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
    assert kinds(store, search).count("checkpoint") == 3  # none was lost or repeated


@pytest.mark.slow
@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("act", "changes", "words"),
    [
        ("refuse", {}, "unknown colour 'blu': expected one of blue. Did you mean 'blue'?"),
        ("bug", {}, "ZeroDivisionError: a bug"),
    ],
)
def test_failed_job_is_not_retried_and_reports_its_reason(
    store: Store, watched: ObservedJobs, act: str, changes: dict[str, Any], words: str
) -> None:
    view = ended(store, watched, submit(store, act, **changes))
    assert (view.status, view.attempts) == ("failed", 1)
    assert words in (view.error or "")


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_silent_job_is_cancelled(store: Store, watched: ObservedJobs) -> None:
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
def test_submission_beyond_every_node_raises(store: Store, watched: ObservedJobs) -> None:
    ended(store, watched, submit(store, "end"))  # by now the dispatcher has reported its nodes
    with pytest.raises(InvalidSpec, match=r"expected at most 2 CPU cores.*got a request for 64 CPU cores"):
        submit(store, "end", resources={"cpus": 64})


@pytest.mark.slow
def test_stop_returns_the_job_to_the_queue(store: Store, watched: ObservedJobs, running: dispatcher.Dispatcher) -> None:
    first_event = threading.Event()
    watched.on_append = lambda _lease, events: (
        first_event.set() if any(e["kind"] == "checkpoint" for e in events) else None
    )
    search = submit(store, "forever")
    assert first_event.wait(SECONDS)
    assert store.queries.counts(30.0) == (1, 0, 1)
    running.stop(1.0)
    assert store.queries.search(search).status == "queued"
    assert store.queries.counts(30.0) == (0, 1, 0)
    again = store.jobs.claim("other", 10.0)
    assert again is not None
    beside = ("progress", "warned")  # on a busy machine a job is warned of its silence
    assert [e["kind"] for e in again.events if e["kind"] not in beside] == ["stage_started", "checkpoint"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_job_claimed_by_another_worker_is_abandoned(store: Store, watched: ObservedJobs) -> None:
    claimed_elsewhere = threading.Event()

    def take(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        if not claimed_elsewhere.is_set() and any(e["kind"] == "checkpoint" for e in events):
            store.jobs.release_dead(lambda _owner: True)
            assert store.jobs.claim("other", 1e6) is not None
            claimed_elsewhere.set()

    watched.on_append = take
    search = submit(store, "forever")
    assert claimed_elsewhere.wait(SECONDS)
    next_search = submit(store, "end")  # runs only after the lost job has ended
    assert ended(store, watched, next_search).status == "succeeded"
    assert store.queries.search(search).status == "running"
    assert kinds(store, search) == ["stage_started", "checkpoint"]


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_backpressure_slows_a_job_without_losing_events(store: Store, watched: ObservedJobs) -> None:
    sizes: list[int] = []
    times: list[float] = []

    def count(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        sizes.append(len(events))
        times.append(time.monotonic())

    watched.on_append = count
    search = submit(store, "chatty")  # 50,000 events as fast as possible
    view = ended(store, watched, search)
    assert view.status == "succeeded", view.error
    assert kinds(store, search).count("checkpoint") == 50
    assert max(sizes) <= attempt.MAX_EVENTS
    assert len(times) <= 10 * (times[-1] - times[0]) + 2
    assert view.stages[0].done == 50_000


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("act", ["spin", "sleep"])
def test_silent_job_keeps_its_lease_and_its_stacks_are_logged(
    store: Store, watched: ObservedJobs, running: dispatcher.Dispatcher, caplog: pytest.LogCaptureFixture, act: str
) -> None:
    """A C function that holds the interpreter lock, or a stopped process, does not block the dispatcher."""
    running._lease_seconds = 2.0
    warned = threading.Event()
    events_so_far: list[Mapping[str, Any]] = []

    def record_events(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        events_so_far.extend(e for e in events if e["kind"] == "warned")
        if events_so_far:
            warned.set()
        pids = [int(e["values"]["pid"]) for e in events if e["kind"] == "progress"]
        if act == "sleep" and pids:
            os.kill(pids[0], signal.SIGSTOP)
            threading.Timer(2 * STUCK_S, os.kill, [pids[0], signal.SIGCONT]).start()

    watched.on_append = record_events
    view = ended(store, watched, submit(store, act))
    assert (view.status, view.attempts) == ("succeeded", 1)  # no lease was lost meanwhile
    assert warned.is_set()
    assert len(events_so_far) == 1
    assert (events_so_far[0]["stage"], events_so_far[0]["message"].split(";")[0]) == (
        "train",
        f"no news from the worker for {STUCK_S:g} s",
    )
    [text] = [r.getMessage() for r in caplog.records if "has been silent" in r.getMessage()]
    assert "run_fake_job" in text if act == "spin" else "(stopped)" in text


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_worker_that_ignores_ray_is_killed(store: Store, watched: ObservedJobs) -> None:
    pids: list[int] = []

    def stop(lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        pids.extend(int(e["values"]["pid"]) for e in events if e["kind"] == "progress" and not pids)
        if pids and any(e["kind"] == "checkpoint" for e in events):
            os.kill(pids[0], signal.SIGSTOP)
            store.jobs.cancel(lease.job_id)

    watched.on_append = stop
    submit(store, "forever")
    assert watched.lost.acquire(timeout=SECONDS)
    watched.on_append = lambda *_: None
    assert ended(store, watched, submit(store, "end")).status == "succeeded"
    assert _start_time(pids[0]) is None


@pytest.mark.slow
def test_local_cluster_listens_on_loopback_only(cluster: RayCluster) -> None:
    [only] = cluster.nodes()
    assert (only.total.cpus, only.total.labels) == (2.0, {})
    assert only.free.cpus <= 2.0
    assert only.total.memory_gb > 0.1
    assert cluster.failure() is None
    assert not cluster.elastic
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
