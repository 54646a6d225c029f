"""Claims jobs and runs them on a cluster. The database decides everything; the cluster lends the hands.

Each claimed job has a thread here that appends what its task yields and does what the answer says. What the database
says is ours and what really runs are compared every few seconds, by the names of jobs and leases.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from nas.core.device import DeviceProfile
from nas.core.errors import HwnasError, InvalidSpec, StorageError
from nas.core.ports import JobStore, Lease, Room
from nas.core.queueing import fits, largest, nearest_lack
from nas.core.spec import ResourceSpec
from workers.following import RETRY_S, Ended, Follower, Task
from workers.placing import Node, less, place, wanted

log = logging.getLogger(__name__)

RECONCILE_S = 5.0
SHUN_S = 30.0  # a cluster takes that long to notice that a node is gone
GRACE_S = 12.0
_ERRORS_S = 10.0  # an error of the loop is said no more often than this


class DispatchStore(JobStore, Protocol):
    """A job store with the ends of a job, and a place to say who is here."""

    def finish(
        self, lease: Lease, status: Literal["succeeded", "failed", "cancelled"], error: str | None = None
    ) -> bool: ...
    def release(self, lease: Lease, crash: str | None = None) -> bool: ...
    def held(self, worker: str) -> Sequence[tuple[str, int]]: ...
    def beat(
        self,
        worker: str,
        slots: int,
        nodes: Sequence[Room] = (),
        free: Sequence[Room] = (),
        elastic: bool = False,
        machine: DeviceProfile | None = None,
    ) -> None: ...
    def leave(self, worker: str) -> None: ...


class Cluster(Protocol):
    """Where jobs run."""

    @property
    def elastic(self) -> bool: ...
    def nodes(self) -> list[Node]: ...
    def run(self, lease: Lease, want: ResourceSpec, node: Node) -> Task: ...


@dataclass(frozen=True)
class Hand:
    """A job that runs: where, on what, and who follows it."""

    lease: Lease
    want: ResourceSpec
    node_id: str
    follower: Follower
    thread: threading.Thread


class Dispatcher:
    """Runs up to ``parallel_jobs`` jobs at a time, as far as they fit, until it is stopped.

    ``owner`` names this process in leases; ``machine`` is what it runs on, from which devices are told to be stale.
    ``clock`` gives seconds, monotonic.
    """

    def __init__(
        self,
        jobs: DispatchStore,
        cluster: Cluster,
        owner: str,
        *,
        lease_seconds: float = 15.0,
        poll_seconds: float = 0.2,
        parallel_jobs: int = 1,
        stuck_seconds: float = 600.0,
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
        self._machine = machine
        self._clock = clock
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._grace_seconds = GRACE_S
        self._hands: dict[tuple[str, int], Hand] = {}
        self._shunned: dict[str, float] = {}  # nodes on which a job crashed, and until when
        self._beaten = self._reconciled = self._complained = -1e9
        self._loop = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Begins to claim jobs, in a thread of its own."""
        self._loop.start()

    def stop(self, grace_seconds: float = GRACE_S) -> None:
        """Lets each job reach its next durable result, for ``grace_seconds`` at most, puts all back into the queue,
        from where they go on later, and waits until all is quiet."""
        self._grace_seconds = grace_seconds
        self._stopping.set()
        self._loop.join()

    def abandon(self, why: str, seconds: float = 3.0) -> None:
        """The cluster is gone: its jobs go back into the queue with ``why``. Touches the cluster no more."""
        self._abandoned.set()
        for hand in list(self._hands.values()):
            hand.follower.give_up("crashed", why)
        self._stopping.set()
        if self._loop.is_alive():
            self._loop.join(seconds)

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except StorageError as error:
                if self._may_complain():
                    log.error("jobs cannot be claimed: %s", error)
            except Exception:
                if self._may_complain():
                    log.exception("jobs cannot be claimed")
            self._stopping.wait(self._poll_seconds)
        hands = list(self._hands.values())
        for hand in hands:
            hand.follower.leave(self._grace_seconds)
        for hand in hands:
            hand.thread.join()
        try:
            self._jobs.leave(self._owner)
        except StorageError as error:
            log.error("the dispatcher could not sign off: %s", error)

    def _turn(self) -> None:
        now = self._clock()
        self._hands = {name: hand for name, hand in self._hands.items() if hand.thread.is_alive()}
        self._shunned = {node: until for node, until in self._shunned.items() if until > now}
        beat = now - self._beaten >= self._lease_seconds / 3
        if beat or len(self._hands) < self._parallel_jobs:
            nodes = self._nodes()
        if beat:
            total, free = [n.total for n in nodes], [n.free for n in nodes]
            self._jobs.beat(self._owner, self._parallel_jobs, total, free, self._cluster.elastic, self._machine)
            self._beaten = now
        if now - self._reconciled >= RECONCILE_S:
            self._reconcile()
            self._reconciled = now
        while len(self._hands) < self._parallel_jobs:
            began = self._clock()
            lease = self._jobs.claim(self._owner, self._lease_seconds, [n.free for n in nodes])
            if lease is None or not self._take(lease, nodes, began + self._lease_seconds):
                break
            nodes = less(nodes, self._taken())

    def _nodes(self) -> list[Node]:
        return less(self._cluster.nodes(), self._taken())

    def _taken(self) -> dict[str, list[ResourceSpec]]:
        taken: dict[str, list[ResourceSpec]] = {}
        for hand in self._hands.values():
            taken.setdefault(hand.node_id, []).append(hand.want)
        return taken

    def _reconcile(self) -> None:
        """A lease that nothing runs for is given back: the answer to its claim was lost. A task without a lease is
        killed: somebody else may run its job."""
        running = set(self._hands)
        held = set(self._jobs.held(self._owner))
        for job_id, token in held - running:
            log.warning("job %s: nothing runs under token %d; back into the queue", job_id, token)
            self._jobs.release(Lease(job_id, "search", {}, token, 0.0))
        for name in running - held:
            self._hands[name].follower.give_up("lost", "its lease is over")

    def _take(self, lease: Lease, nodes: Sequence[Node], held_until: float) -> bool:
        """Starts a claimed job; False if it has no place now, so that the next one should not be asked for yet."""
        try:
            want = wanted(lease)
            node = place(want, nodes, self._shunned)
            if node is None:
                self._settle(lease, self._misfit(want, nodes), held_until)
                return False
            task = self._cluster.run(lease, want, node)
        except HwnasError as error:
            self._settle(lease, Ended("failed", str(error)), held_until)
            return True
        except Exception as error:
            log.exception("job %s could not be started", lease.job_id)
            self._settle(lease, Ended("crashed", f"{type(error).__name__}: {error}"), held_until)
            return False
        log.info("job %s: claimed with token %d, on node %s", lease.job_id, lease.token, node.id)
        follower = Follower(
            self._jobs,
            lease,
            task,
            held_until=held_until,
            lease_seconds=self._lease_seconds,
            stuck_seconds=self._stuck_seconds,
            clock=self._clock,
            pause=self._abandoned.wait,
            stuck=lambda: self._look(lease, task),
        )
        thread = threading.Thread(
            target=self._work, args=(lease, task, follower, node.id), name=f"job {lease.job_id}", daemon=True
        )
        self._hands[lease.job_id, lease.token] = Hand(lease, want, node.id, follower, thread)
        thread.start()
        return True

    def _misfit(self, want: ResourceSpec, nodes: Sequence[Node]) -> Ended:
        """What happens to a job that no node has room for. Where none ever will, it fails."""
        rooms = [n.total for n in nodes]
        if self._cluster.elastic or any(fits(want, room) for room in rooms):
            return Ended("stopped", "there is no room for it at the moment")
        lack = nearest_lack(want, rooms)
        raise InvalidSpec(f"expected at most what one node has, the largest {largest(rooms)}; it lacks {lack}")

    def _work(self, lease: Lease, task: Task, follower: Follower, node_id: str) -> None:
        try:
            ended = follower.run()
        except HwnasError as error:
            ended = Ended("failed", str(error))
        except Exception as error:
            log.exception("job %s: an error of the dispatcher", lease.job_id)
            ended = Ended("failed", f"{type(error).__name__}: {error}")
        if not self._abandoned.is_set():
            task.kill()
        if ended.how == "crashed":
            self._shunned[node_id] = self._clock() + SHUN_S
        self._settle(lease, ended, follower.held_until)

    def _settle(self, lease: Lease, ended: Ended, held_until: float) -> None:
        """Tells the store how it ended. While the database is away that is tried again until the lease has passed."""
        log.info("job %s: %s%s", lease.job_id, ended.how, f": {ended.message}" if ended.message else "")
        while True:
            try:
                match ended.how:
                    case "succeeded" | "failed":
                        self._jobs.finish(lease, ended.how, ended.message)
                    case "crashed":
                        self._jobs.release(lease, crash=ended.message)
                    case "stopped":
                        self._jobs.release(lease)
                    case "parked" | "lost":
                        pass
                return
            except StorageError as error:
                if self._stopping.is_set() or self._clock() + RETRY_S >= held_until:
                    log.error("job %s: its end could not be kept: %s", lease.job_id, error)
                    return
            self._abandoned.wait(RETRY_S)

    def _look(self, lease: Lease, task: Task) -> None:
        """Logs where a silent job is. In a thread of its own: its node may not answer."""

        def look() -> None:
            log.warning("job %s has been silent for %g s: %s", lease.job_id, self._stuck_seconds, task.dump())

        threading.Thread(target=look, name=f"look at {lease.job_id}", daemon=True).start()

    def _may_complain(self) -> bool:
        now = self._clock()
        due = now - self._complained >= _ERRORS_S
        self._complained = now if due else self._complained
        return due
