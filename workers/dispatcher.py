"""Claims jobs and runs them on Ray. The database decides everything; Ray lends the hands.

Each claimed job has a thread here that appends what its Ray worker yields and does what the answer says: go on, cancel,
or forget it, since somebody else has the job now.
"""

from __future__ import annotations

import logging
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import ray
from ray.exceptions import RayError, RayTaskError

from nas.core.errors import HwnasError, InvalidSpec, StorageError
from nas.core.events import Progress
from nas.core.ports import JobKind, JobStore, Lease

log = logging.getLogger(__name__)

Records = list[dict[str, Any]]
Ended = Literal["succeeded", "failed", "cancelled"]
Outcome = Ended | Literal["crashed", "lost", "stopped"]

FLUSH_S = 0.2  # progress alone is written no more often than this
LISTEN_S = 1.0  # how soon a silent job hears of its cancellation


class DispatchStore(JobStore, Protocol):
    """A job store with the ends of a job."""

    def finish(self, lease: Lease, status: Ended, error: str | None = None) -> bool: ...
    def release(self, lease: Lease, crash: str | None = None) -> bool: ...
    def beat(self, worker: str, slots: int) -> None: ...
    def leave(self, worker: str) -> None: ...


class Dispatcher:
    """Runs up to ``parallel_jobs`` jobs at a time until it is stopped. Ray must be there already.

    ``owner`` names this process in leases. ``capacity`` is what Ray has for jobs, None if that can grow. ``run_job``
    names the function that runs a job on a worker, so that what it imports is imported there only. ``clock`` gives
    seconds, monotonic.
    """

    def __init__(
        self,
        jobs: DispatchStore,
        blobs_url: str,
        owner: str,
        *,
        capacity: Mapping[str, float] | None = None,
        run_job: str = "workers.runner:run_job",
        lease_seconds: float = 15.0,
        poll_seconds: float = 0.2,
        parallel_jobs: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._blobs_url = blobs_url
        self._owner = owner
        self._capacity = capacity
        self._run_job = run_job
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._parallel_jobs = parallel_jobs
        self._clock = clock
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._loop = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begins to claim jobs, in a thread of its own."""
        self._loop.start()

    def stop(self) -> None:
        """Puts running jobs back into the queue, from where they go on later, and waits until all is quiet."""
        self._stopping.set()
        self._loop.join()

    def _dispatch(self) -> None:
        beaten = -self._lease_seconds
        while not self._stopping.is_set():
            try:
                if self._clock() - beaten >= self._lease_seconds / 3:
                    self._jobs.beat(self._owner, self._parallel_jobs)
                    beaten = self._clock()
                self._threads = [t for t in self._threads if t.is_alive()]
                while len(self._threads) < self._parallel_jobs:
                    lease = self._jobs.claim(self._owner, self._lease_seconds)
                    if lease is None:
                        break
                    thread = threading.Thread(target=self._work, args=(lease,), name=f"job {lease.job_id}", daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except StorageError as error:
                log.error("jobs cannot be claimed: %s", error)
            except Exception:
                log.exception("jobs cannot be claimed")
            self._stopping.wait(self._poll_seconds)
        for thread in self._threads:
            thread.join()
        try:
            self._jobs.leave(self._owner)
        except StorageError as error:
            log.error("the dispatcher could not sign off: %s", error)

    def _work(self, lease: Lease) -> None:
        log.info("job %s: claimed with token %d", lease.job_id, lease.token)
        try:
            self._end(lease, *self._run(lease))
        except StorageError as error:  # the lease runs out, and the job goes on from what was written
            log.error("job %s: given up, since its events cannot be kept: %s", lease.job_id, error)
        except HwnasError as error:
            self._end(lease, "failed", str(error))
        except Exception as error:
            log.exception("job %s: an error of the dispatcher", lease.job_id)
            self._end(lease, "failed", f"{type(error).__name__}: {error}")

    def _end(self, lease: Lease, how: Outcome, message: str | None) -> None:
        if how == "stopped":
            self._jobs.release(lease)
        elif how == "crashed":
            self._jobs.release(lease, crash=message)
        elif how != "lost":
            self._jobs.finish(lease, how, message)
        log.info("job %s: %s%s", lease.job_id, how, f": {message}" if message else "")

    def _run(self, lease: Lease) -> tuple[Outcome, str | None]:
        task = _stream.options(**resources(lease, self._capacity))
        stream = task.remote(self._run_job, lease.kind, dict(lease.spec), self._blobs_url, list(lease.events))
        try:
            return self._follow(lease, stream)
        finally:
            ray.cancel(stream, force=True)  # nothing happens to a task that has ended

    def _follow(self, lease: Lease, stream: Any) -> tuple[Outcome, str | None]:
        """Appends what the stream yields until it ends, the store says otherwise, or the dispatcher stops."""
        listen_s = min(LISTEN_S, self._lease_seconds / 3)
        waiting: Records = []
        batch = 0
        written = self._clock()
        while True:
            due = written + (FLUSH_S if waiting else listen_s)
            ready, _ = ray.wait([stream], timeout=max(0.0, due - self._clock()))
            how: Outcome | None = None
            found: Any = []
            if ready:
                how, found = _next(stream)
            stopping = self._stopping.is_set()
            if how is None:
                waiting = coalesce([*waiting, *found])
                if not stopping and self._clock() < due and not _urgent(waiting):
                    continue
            batch += 1
            verdict = self._jobs.append(lease, batch, waiting, self._lease_seconds)
            waiting, written = [], self._clock()
            if verdict == "lost":
                return "lost", None
            if how is not None:
                return how, found
            if verdict == "stop":
                return "lost", None
            if stopping:
                return "stopped", None


def coalesce(events: Records) -> Records:
    """The events without progress that later progress of the same stage replaces."""
    newest = {e["stage"]: i for i, e in enumerate(events) if e["kind"] == Progress.kind}
    return [e for i, e in enumerate(events) if e["kind"] != Progress.kind or newest[e["stage"]] == i]


def resources(lease: Lease, capacity: Mapping[str, float] | None) -> dict[str, float]:
    """What Ray sets aside for a job. Raises InvalidSpec for more than there is; Ray would wait for it for ever."""
    spec = lease.spec["spec"]
    wanted = spec.get("resources", {"cpus": spec.get("threads", 1), "gpus": 0})
    for name, key, what in (("CPU", "cpus", "CPU cores"), ("GPU", "gpus", "GPUs")):
        if capacity is not None and wanted[key] > capacity.get(name, 0.0):
            raise InvalidSpec(
                f"expected at most {capacity.get(name, 0.0):g} {what}, which there are; got {wanted[key]}"
            )
    return {"num_cpus": wanted["cpus"], "num_gpus": wanted["gpus"]}


def _urgent(events: Records) -> bool:
    return any(event["kind"] != Progress.kind for event in events)


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


@ray.remote(max_retries=0)
def _stream(
    run_job: str, kind: JobKind, spec: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Outcome | None, Any]]:
    """Runs on a Ray worker. An error of ours travels as text: what it was made from may not survive the journey."""
    try:
        for batch in pkgutil.resolve_name(run_job)(kind, spec, blobs_url, events):
            yield None, batch
    except HwnasError as error:
        yield "failed", str(error)
