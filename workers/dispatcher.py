"""Claims jobs and runs them on Ray. The database decides everything; Ray lends the hands.

Each claimed job has a thread here that appends what its Ray worker yields and does what the answer says: go on, stop
since the job is parked, or forget it, since somebody else has it now. These threads also keep the lease alive: nothing
that trains runs in this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from nas.core.errors import HwnasError, StorageError
from nas.core.events import Checkpoint, Evaluated, Exported, Measured, Progress, StageFinished, Warned, encode
from nas.core.ports import JobStore, Lease, Room, Verdict
from nas.core.spec import ResourceSpec
from workers.ray_cluster import GB
from workers.stream import AHEAD, Hello, Outcome, Records, dump_stack, stream_job

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_S = 0.2  # progress alone is written no more often than this
URGENT_S = 0.1  # nor anything else than this: at most ten appends a second, however chatty a job is
MOST_EVENTS = 2_000  # that are kept back for one append; the worker waits meanwhile
LISTEN_S = 1.0  # how soon a silent job hears that it was cancelled
RETRY_S = 0.5  # between two tries to reach a database that is away
WATCH_S = 0.5  # between two looks at whether Ray still lives
START_S = 120.0  # a task that Ray has not begun by then is given back
GRACE_S = 12.0  # for a job to reach its next durable result when the dispatcher stops
DURABLE = {t.kind for t in (Checkpoint, Evaluated, Exported, Measured, StageFinished)}


class DispatchStore(JobStore, Protocol):
    """A job store with the ends of a job, and what a dispatcher says of itself."""

    def finish(
        self, lease: Lease, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool: ...
    def release(self, lease: Lease, crash: str | None = None) -> bool: ...
    def held(self, worker: str) -> list[tuple[str, int]]: ...
    def beat(
        self, worker: str, slots: int, nodes: Sequence[Room] = (), free: Sequence[Room] = (), elastic: bool = False
    ) -> None: ...
    def leave(self, worker: str) -> None: ...


class Hands(Protocol):
    """The cluster that jobs run on (``workers.ray_cluster.Cluster``)."""

    elastic: bool

    def nodes(self) -> list[Room]: ...
    def free(self) -> list[Room]: ...
    def alive(self) -> bool: ...


@dataclass
class Run:
    """A job at work: its lease, until when that surely holds, and whether Ray has begun with it."""

    lease: Lease
    holds_until: float
    thread: threading.Thread | None = None
    begun: bool = False
    batch: int = 0


class Dispatcher:
    """Runs up to ``parallel_jobs`` jobs at a time until it is stopped. Ray must be there already.

    ``owner`` names this process in leases. ``run_job`` names the function that runs a job on a worker, so that what it
    imports is imported there only. ``lost_ray`` is called once, from a thread, when Ray is gone. A worker that is
    silent for ``stuck_seconds`` has its stack written to the log. ``clock`` gives seconds, monotonic.
    """

    def __init__(
        self,
        jobs: DispatchStore,
        cluster: Hands,
        blobs_url: str,
        owner: str,
        *,
        run_job: str = "workers.runner:run_job",
        lease_seconds: float = 15.0,
        poll_seconds: float = 0.2,
        parallel_jobs: int = 1,
        stuck_seconds: float = 600.0,
        lost_ray: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._blobs_url = blobs_url
        self._owner = owner
        self._run_job = run_job
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._parallel_jobs = parallel_jobs
        self._stuck_seconds = stuck_seconds
        self._lost_ray = lost_ray
        self._clock = clock
        self._sleep = sleep
        self._stopping = threading.Event()
        self._stop_by = float("inf")
        self._runs: list[Run] = []
        self._loop = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self._watch = threading.Thread(target=self._watch_ray, name="watch Ray", daemon=True)

    def start(self) -> None:
        """Begins to claim jobs, in a thread of its own."""
        self._loop.start()
        self._watch.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Lets running jobs reach their next durable result, at most for ``grace_s``, puts them back into the queue,
        from where they go on later, and waits until all is quiet."""
        self._stop_by = self._clock() + grace_s
        self._stopping.set()
        self._loop.join()

    # The loop

    def _dispatch(self) -> None:
        beaten = -self._lease_seconds
        while not self._stopping.is_set():
            try:
                self._runs = [run for run in self._runs if run.thread is not None and run.thread.is_alive()]
                if self._clock() - beaten >= self._lease_seconds / 3:
                    self._jobs.beat(
                        self._owner,
                        self._parallel_jobs,
                        self._cluster.nodes(),
                        self._cluster.free(),
                        self._cluster.elastic,
                    )
                    self._reconcile()
                    beaten = self._clock()
                self._claim()
            except StorageError as error:
                log.error("jobs cannot be claimed: %s", error)
            except Exception:
                log.exception("jobs cannot be claimed")
            self._stopping.wait(self._poll_seconds)
        for run in self._runs:
            if run.thread is not None:
                run.thread.join()
        try:
            self._jobs.leave(self._owner)
        except StorageError as error:
            log.error("the dispatcher could not sign off: %s", error)

    def _watch_ray(self) -> None:
        """A thread of its own, since a call to a Ray that is gone may hang for a minute."""
        while self._cluster.alive():
            if self._stopping.wait(WATCH_S):
                return
        log.critical("Ray is gone: one of its vital processes has ended, or does not answer")
        self._lost_ray()

    def _claim(self) -> None:
        """Claims what fits. What Ray has not begun yet still counts as free there, so one at a time."""
        if len(self._runs) >= self._parallel_jobs or not all(run.begun for run in self._runs):
            return
        lease = self._jobs.claim(self._owner, self._lease_seconds, self._cluster.free())
        if lease is not None:
            run = Run(lease, self._clock() + self._lease_seconds)
            run.thread = threading.Thread(target=self._work, args=(run,), name=f"job {lease.job_id}", daemon=True)
            self._runs.append(run)
            run.thread.start()

    def _reconcile(self) -> None:
        """A lease of ours that nobody here works on, as when the answer to its claim was lost, is given back."""
        mine = {(run.lease.job_id, run.lease.token) for run in self._runs}
        for job_id, token in self._jobs.held(self._owner):
            if (job_id, token) not in mine:
                log.warning("job %s: its lease %d was held but not worked on", job_id, token)
                orphan = Lease(job_id, "search", {}, token, 0.0)
                self._jobs.release(orphan, crash="its dispatcher lost track of it")

    # One job

    def _work(self, run: Run) -> None:
        lease = run.lease
        log.info("job %s: claimed with token %d", lease.job_id, lease.token)
        try:
            self._end(run, *self._run(run))
        except StorageError as error:  # the lease runs out, and the job goes on from what was written
            log.error("job %s: given up, since its events cannot be kept: %s", lease.job_id, error)
        except HwnasError as error:
            self._end(run, "failed", str(error))
        except Exception as error:
            log.exception("job %s: an error of the dispatcher", lease.job_id)
            self._end(run, "failed", f"{type(error).__name__}: {error}")

    def _end(self, run: Run, how: Outcome, message: str | None) -> None:
        lease = run.lease
        if how in ("stopped", "crashed"):
            crash = message if how == "crashed" else None
            self._insist(run, lambda: self._jobs.release(lease, crash=crash))
        elif how in ("succeeded", "failed"):
            self._insist(run, lambda: self._jobs.finish(lease, how, message))
        log.info("job %s: %s%s", lease.job_id, how, f": {message}" if message else "")

    def _run(self, run: Run) -> tuple[Outcome, str | None]:
        lease = run.lease
        task = stream_job.options(
            name=f"{lease.job_id}:{lease.token}", _generator_backpressure_num_objects=AHEAD, **placement(lease)
        )
        stream = task.remote(self._run_job, lease.kind, dict(lease.spec), self._blobs_url, list(lease.events))
        try:
            return self._follow(run, stream)
        finally:
            ray.cancel(stream, force=True)  # nothing happens to a task that has ended

    def _follow(self, run: Run, stream: Any) -> tuple[Outcome, str | None]:
        """Appends what the stream yields until it ends, the store says otherwise, or the dispatcher stops."""
        listen_s = min(LISTEN_S, self._lease_seconds / 3)
        waiting: Records = []
        hello: Hello | None = None
        asked = written = heard = self._clock()
        while True:
            urgent = any(event["kind"] != Progress.kind for event in waiting)
            due = written + (URGENT_S if urgent else FLUSH_S if waiting else listen_s)
            ready, _ = ray.wait([stream], timeout=max(0.0, due - self._clock()))
            how: Outcome | None = None
            found: Any = []
            if ready:
                heard = self._clock()
                how, found = _next(stream)
            if isinstance(found, Hello):
                hello, found, run.begun = found, [], True
            if hello is None and how is None and self._clock() - asked > START_S:
                return "stopped", None
            if hello is not None and self._clock() - heard > self._stuck_seconds:
                found = [self._stuck(run.lease, hello, self._clock() - heard)]
                heard = float("inf")  # told once until it moves again
            stopping = self._stopping.is_set()
            if how is None:
                waiting = coalesce([*waiting, *found])
                if self._clock() < due and len(waiting) < MOST_EVENTS and not stopping:
                    continue
            verdict = self._append(run, waiting)
            durable = any(event["kind"] in DURABLE for event in waiting)
            waiting, written = [], self._clock()
            if verdict != "continue":
                return ("lost" if verdict == "lost" else "parked"), None
            if how is not None:
                return how, found
            if stopping and (durable or hello is None or self._clock() >= self._stop_by):
                return "stopped", None
            if stopping:
                self._sleep(URGENT_S)

    def _append(self, run: Run, events: Records) -> Verdict:
        run.batch += 1
        return self._insist(
            run, lambda: self._jobs.append(run.lease, run.batch, events, self._lease_seconds), renews=True
        )

    def _insist(self, run: Run, call: Callable[[], T], *, renews: bool = False) -> T:
        """Repeats a call while the database is away and the lease may still hold. Raises StorageError after that."""
        while True:
            begun = self._clock()
            try:
                answer = call()
            except StorageError as error:
                if self._clock() + RETRY_S >= run.holds_until:
                    raise
                log.warning("job %s: %s; trying again", run.lease.job_id, error)
                self._sleep(RETRY_S)
                continue
            if renews:
                run.holds_until = begun + self._lease_seconds
            return answer

    def _stuck(self, lease: Lease, hello: Hello, silent_s: float) -> dict[str, Any]:
        """Writes the stack of a silent worker to the log; the event that tells the user."""
        stack = dump_stack(hello)
        log.warning("job %s: no event for %.0f s; its worker (pid %d):\n%s", lease.job_id, silent_s, hello.pid, stack)
        return encode(Warned("", f"no sign of progress for {silent_s:.0f} s; its worker's stack is in the log"))


def coalesce(events: Records) -> Records:
    """The events without progress that later progress of the same stage replaces."""
    newest = {e["stage"]: i for i, e in enumerate(events) if e["kind"] == Progress.kind}
    return [e for i, e in enumerate(events) if e["kind"] != Progress.kind or newest[e["stage"]] == i]


def placement(lease: Lease) -> dict[str, Any]:
    """What Ray sets aside for a job, and the labels of the nodes that it may use."""
    spec = lease.spec["spec"]
    wanted = ResourceSpec.model_validate(spec.get("resources") or {"cpus": spec.get("threads", 1)})
    options: dict[str, Any] = {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus}
    if wanted.memory_gb is not None:
        options["memory"] = wanted.memory_gb * GB
    if wanted.labels:
        options["label_selector"] = dict(wanted.labels)
    return options


def _next(stream: Any) -> tuple[Outcome | None, Any]:
    """What comes next out of a stream: None and events, or how it ended and why."""
    try:
        outcome: tuple[Outcome | None, Any] = ray.get(next(stream))
        return outcome
    except StopIteration:
        return "succeeded", None
    except RayTaskError as error:
        log.error("a job failed with an error that was not foreseen\n%s", error)
        return "failed", f"{type(error.cause).__name__}: {error.cause}"
    except RayError as error:
        return "crashed", f"{type(error).__name__}: {str(error).splitlines()[0]}"
