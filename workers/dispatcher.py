"""The dispatcher: claims jobs and runs them on a cluster. The database is the only source of truth.

Each claimed job has a thread here that appends the job's events and obeys the store's answers. Every few seconds the
leases in the database are reconciled with the jobs that run here, by job id and lease token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.core.device import DeviceProfile
from nas.core.errors import HwnasError, InvalidSpec, StorageError
from nas.core.jobs import JobStore, Lease, LeaseToken
from nas.core.log_context import job_context
from nas.core.scheduling import NodeResources, describe_largest, fits, required_resources, smallest_shortage
from nas.core.spec import ResourceSpec
from workers.attempt import HANG_S, RETRY_S, AttemptOutcome, AttemptRunner, RunningJob
from workers.lease_keeper import LeaseKeeper
from workers.placement import Node, choose_node, subtract_reserved

log = logging.getLogger(__name__)

RECONCILE_S = 5.0
AVOID_S = 30.0  # how long a node is avoided after a crash; a cluster takes about that long to notice a dead node
GRACE_S = 12.0
STORAGE_DELAY_S = 5.0  # before the first retry after a storage error; doubled with each further one
_LOG_INTERVAL_S = 10.0  # between two log records of errors of the loop


class DispatchStore(JobStore, Protocol):
    """A job store that also ends jobs and registers dispatchers."""

    def finish(
        self, lease: LeaseToken, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool: ...
    def release(self, lease: LeaseToken, crash: str | None = None, delay_s: float = 0.0) -> bool: ...
    def renew(self, leases: Collection[LeaseToken], seconds: float) -> Sequence[LeaseToken]: ...
    def leases_of(self, worker: str) -> Sequence[LeaseToken]: ...
    def heartbeat(
        self,
        worker: str,
        slots: int,
        nodes: Sequence[NodeResources] = (),
        free: Sequence[NodeResources] = (),
        elastic: bool = False,
        machine: DeviceProfile | None = None,
    ) -> None: ...
    def unregister(self, worker: str) -> None: ...


class ClusterBackend(Protocol):
    """Where jobs run. ``elastic``: nodes may be added."""

    @property
    def elastic(self) -> bool: ...
    def nodes(self) -> list[Node]: ...
    def start(self, lease: Lease, required: ResourceSpec, node: Node) -> RunningJob: ...


@dataclass(frozen=True)
class ActiveAttempt:
    """A job that runs on a node, and the thread that runs its attempt."""

    required: ResourceSpec
    node_id: str
    runner: AttemptRunner
    thread: threading.Thread


class Dispatcher:
    """Runs up to ``parallel_jobs`` jobs concurrently, as far as they fit the cluster, until it is stopped.

    ``owner`` names this process in leases; ``machine`` describes the machine that it runs on, for the check whether a
    device profile is stale. ``clock`` gives monotonic seconds.
    """

    def __init__(
        self,
        jobs: DispatchStore,
        cluster: ClusterBackend,
        owner: str,
        *,
        lease_seconds: float = 15.0,
        poll_seconds: float = 0.2,
        parallel_jobs: int = 1,
        stuck_seconds: float = 600.0,
        hang_seconds: float = HANG_S,
        machine: DeviceProfile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._parallel_jobs = parallel_jobs
        self._stuck_seconds = stuck_seconds
        self._hang_seconds = hang_seconds
        self._machine = machine
        self._clock = clock
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._grace_s = GRACE_S
        self._attempts: dict[LeaseToken, ActiveAttempt] = {}
        self._leases = LeaseKeeper(jobs, lease_seconds, clock)
        self._avoid_until: dict[str, float] = {}  # by id of a node on which a job crashed
        self._heartbeat_at = self._reconciled_at = self._logged_at = -1e9
        self._loop = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begin to claim jobs, in a background thread."""
        self._leases.start()
        self._loop.start()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop claiming, let each job reach its next durable result for at most ``grace_s``, return all jobs to the
        queue and wait for the threads. Another dispatcher continues the jobs."""
        self._grace_s = grace_s
        self._stopping.set()
        self._loop.join()

    def abandon(self, reason: str, timeout_s: float = 3.0) -> None:
        """Return all jobs of a lost cluster to the queue with ``reason``. Does not access the cluster any more."""
        self._abandoned.set()
        for attempt in list(self._attempts.values()):
            attempt.runner.abort("crashed", reason)
        self._stopping.set()
        if self._loop.is_alive():
            self._loop.join(timeout_s)

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._run_cycle()
            except StorageError as error:
                if self._may_log_error():
                    log.error("jobs cannot be claimed: %s", error)
            except Exception:
                if self._may_log_error():
                    log.exception("jobs cannot be claimed")
            self._stopping.wait(self._poll_seconds)
        attempts = list(self._attempts.values())
        for attempt in attempts:
            attempt.runner.stop(self._grace_s)
        for attempt in attempts:
            attempt.thread.join()
        self._leases.stop()
        try:
            self._jobs.unregister(self._owner)
        except StorageError as error:
            log.error("the dispatcher could not unregister: %s", error)

    def _run_cycle(self) -> None:
        now = self._clock()
        self._attempts = {token: attempt for token, attempt in self._attempts.items() if attempt.thread.is_alive()}
        self._avoid_until = {node: until for node, until in self._avoid_until.items() if until > now}
        heartbeat_due = now - self._heartbeat_at >= self._lease_seconds / 3
        if heartbeat_due or len(self._attempts) < self._parallel_jobs:
            nodes = subtract_reserved(self._cluster.nodes(), self._reserved())
        if heartbeat_due:
            total, free = [n.total for n in nodes], [n.free for n in nodes]
            self._jobs.heartbeat(self._owner, self._parallel_jobs, total, free, self._cluster.elastic, self._machine)
            self._heartbeat_at = now
        if now - self._reconciled_at >= RECONCILE_S:
            self._reconcile()
            self._reconciled_at = now
        while len(self._attempts) < self._parallel_jobs:
            claimed_at = self._clock()
            lease = self._jobs.claim(self._owner, self._lease_seconds, [n.free for n in nodes])
            if lease is None or not self._start_attempt(lease, nodes, claimed_at + self._lease_seconds):
                break
            nodes = subtract_reserved(nodes, self._reserved())

    def _reserved(self) -> dict[str, list[ResourceSpec]]:
        """Resources of our running jobs by node id."""
        reserved: dict[str, list[ResourceSpec]] = {}
        for attempt in self._attempts.values():
            reserved.setdefault(attempt.node_id, []).append(attempt.required)
        return reserved

    def _reconcile(self) -> None:
        """Release leases without a running job (the response to the claim was lost), and kill jobs without a lease
        (another process may run them)."""
        running = set(self._attempts)
        leases = set(self._jobs.leases_of(self._owner))
        for lease in leases - running:
            with job_context(lease.job_id):
                log.warning("job %s: nothing runs under token %d; returned to the queue", lease.job_id, lease.token)
                self._jobs.release(lease)
        for lease in running - leases:
            self._attempts[lease].runner.abort("lost", "its lease is over")

    def _start_attempt(self, lease: Lease, nodes: Sequence[Node], lease_deadline: float) -> bool:
        """Start a claimed job. False if it cannot be placed now, so that no further job should be claimed yet."""
        with job_context(lease.job_id):
            try:
                required = required_resources(lease.payload.spec)
                node = choose_node(required, nodes, self._avoid_until)
                if node is None:
                    self._record(lease, self._unplaced_outcome(required, nodes), lease_deadline)
                    return False
                job = self._cluster.start(lease, required, node)
            except HwnasError as error:
                self._record(lease, _outcome_of(error), lease_deadline)
                return True
            except Exception as error:
                log.exception("job %s could not be started", lease.job_id)
                self._record(lease, AttemptOutcome("crashed", f"{type(error).__name__}: {error}"), lease_deadline)
                return False
            log.info("job %s: claimed with token %d, on node %s", lease.job_id, lease.token, node.id)
        runner = AttemptRunner(
            self._jobs,
            lease,
            job,
            lease_deadline=lease_deadline,
            lease_seconds=self._lease_seconds,
            stuck_seconds=self._stuck_seconds,
            hang_seconds=self._hang_seconds,
            clock=self._clock,
            sleep=self._abandoned.wait,
            on_silence=lambda: self._log_stacks(lease, job),
        )
        thread = threading.Thread(
            target=self._run_attempt, args=(lease, job, runner, node.id), name=f"job {lease.job_id}", daemon=True
        )
        token = LeaseToken(lease.job_id, lease.token)
        self._attempts[token] = ActiveAttempt(required, node.id, runner, thread)
        self._leases.add(token, runner)
        thread.start()
        return True

    def _unplaced_outcome(self, required: ResourceSpec, nodes: Sequence[Node]) -> AttemptOutcome:
        """The outcome of a job that fits no node now. Raises InvalidSpec if it can never fit."""
        totals = [n.total for n in nodes]
        if self._cluster.elastic or any(fits(required, total) for total in totals):
            return AttemptOutcome("stopped", "no node has enough free resources at the moment")
        shortage = smallest_shortage(required, totals)
        raise InvalidSpec(
            f"expected at most what one node has, the largest {describe_largest(totals)}; it lacks {shortage}"
        )

    def _run_attempt(self, lease: Lease, job: RunningJob, runner: AttemptRunner, node_id: str) -> None:
        with job_context(lease.job_id):
            try:
                outcome = runner.run()
            except HwnasError as error:
                outcome = _outcome_of(error)
            except Exception as error:
                log.exception("job %s: an error of the dispatcher", lease.job_id)
                outcome = AttemptOutcome("failed", f"{type(error).__name__}: {error}")
            self._leases.remove(LeaseToken(lease.job_id, lease.token))
            if not self._abandoned.is_set():
                job.kill()
            if outcome.status == "crashed":
                self._avoid_until[node_id] = self._clock() + AVOID_S
            self._record(lease, outcome, runner.lease_deadline)

    def _record(self, lease: Lease, outcome: AttemptOutcome, lease_deadline: float) -> None:
        """Write the outcome to the store; while the database is unavailable, retry until the lease has expired."""
        log.info("job %s: %s%s", lease.job_id, outcome.status, f": {outcome.message}" if outcome.message else "")
        while True:
            try:
                match outcome.status:
                    case "succeeded" | "failed":
                        self._jobs.finish(lease, outcome.status, outcome.message)
                    case "crashed":
                        self._jobs.release(lease, crash=outcome.message)
                    case "unstored":
                        self._jobs.release(lease, crash=outcome.message, delay_s=STORAGE_DELAY_S)
                    case "stopped":
                        self._jobs.release(lease)
                    case "parked" | "lost":
                        pass
                return
            except StorageError as error:
                if self._stopping.is_set() or self._clock() + RETRY_S >= lease_deadline:
                    log.error("job %s: its outcome could not be stored: %s", lease.job_id, error)
                    return
            self._abandoned.wait(RETRY_S)

    def _log_stacks(self, lease: Lease, job: RunningJob) -> None:
        """Log the stacks of a silent job. In a separate thread: its node may not respond."""

        def log_stacks() -> None:
            with job_context(lease.job_id):
                stacks = job.dump_stacks()
                log.warning("job %s has been silent for %g s: %s", lease.job_id, self._stuck_seconds, stacks)

        threading.Thread(target=log_stacks, name=f"stacks of {lease.job_id}", daemon=True).start()

    def _may_log_error(self) -> bool:
        now = self._clock()
        due = now - self._logged_at >= _LOG_INTERVAL_S
        self._logged_at = now if due else self._logged_at
        return due


def _outcome_of(error: HwnasError) -> AttemptOutcome:
    return AttemptOutcome("unstored" if isinstance(error, StorageError) else "failed", str(error))
