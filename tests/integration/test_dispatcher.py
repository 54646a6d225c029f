"""The dispatcher: first its parts, then jobs on a real local Ray, whose workers are killed."""

from __future__ import annotations

import gc
import os
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
from nas.core.ports import Lease, Room
from nas.core.spec import ResourceSpec
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.dispatching import SECONDS, Watched, ended, kinds, submit
from workers import dispatcher, following
from workers.following import Ended
from workers.placing import Node, less, place, wanted
from workers.processes import _start_time, is_dead, owner_name
from workers.ray_cluster import Cluster, ray_cluster

ray = pytest.importorskip("ray")

STUCK_S = 4.0


def lease(spec: Mapping[str, Any]) -> Lease:
    return Lease("id", "search", {"spec": spec, "resolved": {}}, 1, 0.0)


def node(name: str, cpus: float, gpus: float = 0.0, free: float | None = None, **labels: str) -> Node:
    total = Room(cpus, gpus, 8.0, labels)
    return Node(name, total, replace(total, cpus=cpus if free is None else free))


def test_what_a_job_wants_comes_from_its_spec() -> None:
    resources = {"cpus": 2, "gpus": 1, "memory_gb": 1.5, "labels": {"gpu": "a100"}}
    assert wanted(lease({"resources": resources})) == ResourceSpec.model_validate(resources)
    assert wanted(lease({"threads": 3})) == ResourceSpec(cpus=3)


def test_a_job_goes_where_it_fits_and_is_least_in_the_way() -> None:
    nodes = [node("gpus", 8, 4, gpu="a100"), node("full", 8, free=1), node("plain", 4), node("wide", 8)]

    def where(shunned: Sequence[str] = (), **want: Any) -> str | None:
        found = place(ResourceSpec.model_validate(want), nodes, shunned)
        return None if found is None else found.id

    assert where(cpus=2) == "wide"
    assert where(["wide"], cpus=2) == "plain"
    assert where(["wide"], cpus=8) == "gpus"
    assert where(["wide", "gpus"], cpus=8) in ("wide", "gpus")  # better there than not at all
    assert where(gpus=1) == "gpus"
    assert where(labels={"gpu": "a100"}) == "gpus"
    assert where(labels={"gpu": "h100"}) is None
    assert where(cpus=9) is None
    assert where(memory_gb=9.0) is None


def test_what_we_took_is_set_aside_before_the_cluster_says_so() -> None:
    taken = {"one": [ResourceSpec(cpus=3, memory_gb=2.0), ResourceSpec(cpus=1)]}
    [one, two] = less([node("one", 8), node("two", 8, free=2)], taken)
    assert (one.free.cpus, one.free.memory_gb, one.total.cpus) == (4, 6.0, 8)
    assert two.free.cpus == 2


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


class Held:
    """A task that does nothing until it is told how it ends."""

    begun = True

    def __init__(self) -> None:
        self.ends = threading.Event()
        self.killed = threading.Event()

    def next(self, seconds: float) -> Ended | None:
        return Ended("succeeded") if self.ends.wait(min(seconds, 0.02)) else None

    def kill(self) -> None:
        self.killed.set()

    def dump(self) -> str:
        return ""


class Shelf:
    """A cluster of made-up nodes that runs made-up tasks."""

    elastic = False

    def __init__(self, *nodes: Node) -> None:
        self.all = list(nodes)
        self.tasks: dict[str, Held] = {}
        self.placed: list[tuple[str, str]] = []
        self.started = threading.Semaphore(0)

    def nodes(self) -> list[Node]:
        return self.all

    def run(self, lease: Lease, want: ResourceSpec, node: Node) -> Held:
        self.tasks[lease.job_id] = task = Held()
        self.placed.append((lease.job_id, node.id))
        self.started.release()
        return task


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(node("one", 2), node("two", 1, zone="east"))


@pytest.fixture
def idle(watched: Watched, shelf: Shelf) -> Iterator[dispatcher.Dispatcher]:
    """A dispatcher that is turned by hand."""
    made = dispatcher.Dispatcher(watched, shelf, "us", parallel_jobs=8, lease_seconds=30.0)
    yield made
    made.abandon("the test is over")
    for hand in made._hands.values():
        hand.thread.join()


def again(idle: dispatcher.Dispatcher) -> None:
    idle._reconciled = idle._beaten = -1e9
    idle._turn()


def test_only_what_fits_is_claimed_and_it_goes_where_it_fits(
    store: Store, idle: dispatcher.Dispatcher, shelf: Shelf
) -> None:
    labelled = submit(store, "end", resources={"labels": {"zone": "east"}})
    wide = submit(store, "end", resources={"cpus": 2})
    late = submit(store, "end")
    again(idle)
    assert shelf.placed == [(labelled, "two"), (wide, "one")]
    assert store.queries.search(late).status == "queued"
    shelf.tasks[wide].ends.set()
    idle._hands[wide, 1].thread.join()
    again(idle)
    assert shelf.placed[2:] == [(late, "one")]


def test_a_lease_without_a_task_is_given_back(store: Store, idle: dispatcher.Dispatcher) -> None:
    search = submit(store, "end", resources={"cpus": 2})
    assert store.jobs.claim("us", 1e6) is not None  # and the answer was lost
    idle._parallel_jobs = 0
    again(idle)
    assert store.queries.search(search).status == "queued"


def test_a_task_without_a_lease_is_killed(store: Store, idle: dispatcher.Dispatcher, shelf: Shelf) -> None:
    search = submit(store, "end")
    again(idle)
    assert store.jobs.held("us") == [(search, 1)]
    store.jobs.release_dead(lambda owner: owner == "us")
    assert store.jobs.claim("another", 1e6) is not None
    again(idle)
    assert shelf.tasks[search].killed.wait(SECONDS)
    assert store.queries.search(search).status == "running"
    assert store.jobs.held("another") == [(search, 2)]


def test_jobs_of_a_cluster_that_is_gone_go_back_with_the_reason(
    store: Store, idle: dispatcher.Dispatcher, shelf: Shelf
) -> None:
    search = submit(store, "end")
    again(idle)
    idle.abandon("Ray's raylet has ended")
    idle._hands[search, 1].thread.join()
    assert store.queries.search(search).status == "queued"
    assert not shelf.tasks[search].killed.is_set()  # nobody waits for a cluster that is gone


def test_a_node_on_which_a_job_crashed_comes_last(store: Store, idle: dispatcher.Dispatcher, shelf: Shelf) -> None:
    shelf.all = [node("one", 2), node("two", 1)]
    first = submit(store, "end")
    again(idle)
    assert shelf.placed == [(first, "one")]
    idle._hands[first, 1].follower.give_up("crashed", "its worker died")
    idle._hands[first, 1].thread.join()
    again(idle)
    assert shelf.placed[1:] == [(first, "two")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for its own processes
        given = {"blobs_url": str(folder / "blobs"), "run_job": "tests.support.fakes:run_fake_job"}
        with ray_cluster(None, folder / "records", cpus=2, **given) as started:
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
def running(watched: Watched, cluster: Cluster) -> Iterator[dispatcher.Dispatcher]:
    started = dispatcher.Dispatcher(
        watched,
        cluster,
        owner_name(),
        lease_seconds=30.0,
        stuck_seconds=STUCK_S,
        poll_seconds=0.05,
    )
    started.start()
    yield started
    started.stop(0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_job_runs_to_its_end(store: Store, watched: Watched) -> None:
    search = submit(store, "end")
    view = ended(store, watched, search)
    assert (view.status, view.error, view.attempts) == ("succeeded", None, 1)
    told = [kind for kind in kinds(store, search) if kind != "warned"]  # of silence, on a busy machine
    assert told == ["stage_started", *["checkpoint"] * 3, "stage_finished"]


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
    running.stop(1.0)
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
@pytest.mark.usefixtures("running")
def test_a_chatty_job_is_slowed_and_loses_nothing(store: Store, watched: Watched) -> None:
    sizes: list[int] = []
    times: list[float] = []

    def count(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        sizes.append(len(events))
        times.append(time.monotonic())

    watched.on_append = count
    search = submit(store, "chatty")  # 50,000 events as fast as it can
    view = ended(store, watched, search)
    assert view.status == "succeeded", view.error
    assert kinds(store, search).count("checkpoint") == 50
    assert max(sizes) <= following.MAX_EVENTS
    assert len(times) <= 10 * (times[-1] - times[0]) + 2
    assert view.stages[0].done == 50_000


@pytest.mark.slow
@pytest.mark.parametrize("act", ["spin", "sleep"])
def test_a_job_without_news_keeps_its_lease_and_is_looked_at(
    store: Store, watched: Watched, running: dispatcher.Dispatcher, caplog: pytest.LogCaptureFixture, act: str
) -> None:
    """Whether a C function holds the interpreter's lock or a process is stopped: neither is in the dispatcher's way."""
    running._lease_seconds = 2.0
    warned = threading.Event()
    seen: list[Mapping[str, Any]] = []

    def look(_lease: Lease, events: Sequence[Mapping[str, Any]]) -> None:
        seen.extend(e for e in events if e["kind"] == "warned")
        if seen:
            warned.set()
        pids = [int(e["values"]["pid"]) for e in events if e["kind"] == "progress"]
        if act == "sleep" and pids:
            os.kill(pids[0], signal.SIGSTOP)
            threading.Timer(2 * STUCK_S, os.kill, [pids[0], signal.SIGCONT]).start()

    watched.on_append = look
    view = ended(store, watched, submit(store, act))
    assert (view.status, view.attempts) == ("succeeded", 1)  # no lease was lost in all that time
    assert warned.is_set()
    assert len(seen) == 1
    assert (seen[0]["stage"], seen[0]["message"].split(";")[0]) == (
        "train",
        f"no news from the worker for {STUCK_S:g} s",
    )
    [text] = [r.getMessage() for r in caplog.records if "has been silent" in r.getMessage()]
    assert "run_fake_job" in text if act == "spin" else "(stopped)" in text


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_worker_that_does_not_listen_to_ray_is_killed(store: Store, watched: Watched) -> None:
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
def test_the_local_cluster_listens_on_loopback_only(cluster: Cluster) -> None:
    [only] = cluster.nodes()
    assert (only.total.cpus, only.total.labels) == (2.0, {})
    assert only.free.cpus <= 2.0
    assert only.total.memory_gb > 0.1
    assert cluster.gone() is None
    assert not cluster.elastic
    assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
