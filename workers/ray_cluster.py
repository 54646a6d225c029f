"""Ray, local or joined: what its nodes have, jobs that run on them, and whether it is still there."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.ports import Lease, Room
from nas.core.spec import ResourceSpec
from nas.cpus import available_cpus
from workers import stream
from workers.following import Ended, Records
from workers.placing import Node
from workers.processes import Record

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200 * 1024 * 1024  # jobs hand over events, not tensors
GB = 1e9
_AHEAD = 64  # batches that a worker may be ahead of us
_ANSWER_S = 4.0  # a cluster that does not answer for longer is gone
_END_S = 3.0  # a worker that does not end for longer is killed by the system
_PARTS = ("gcs_server", "raylet")
_MAX_TMP_BYTES = 107 - len("/nas-01234567/session_2026-11-30_12-00-00_000000_4194304/sockets/plasma_store")


class RayTask:
    """A job on a Ray worker."""

    def __init__(self, started: Any, node_id: str) -> None:
        self._stream = started
        self._node_id = node_id
        self._hello: stream.Hello | None = None
        self._over = False

    @property
    def begun(self) -> bool:
        """Whether a worker has said that it runs it."""
        return self._hello is not None

    def next(self, seconds: float) -> Records | Ended | None:
        """Waits up to ``seconds`` for more events, or the end."""
        ready, _ = ray.wait([self._stream], timeout=seconds)
        if not ready:
            return None
        try:
            found: stream.Hello | Records | Ended = ray.get(next(self._stream))
        except StopIteration:
            found = Ended("succeeded")
        except RayTaskError as error:
            log.error("a job failed with an error that was not foreseen\n%s", error)
            found = Ended("failed", f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            found = Ended("crashed", f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if isinstance(found, stream.Hello):
            self._hello = found
            return []
        self._over = isinstance(found, Ended)
        return found

    def kill(self) -> None:
        """Ends it, if it has not ended by itself; a worker that does not even listen to Ray is killed by the system."""
        if self._over:
            return
        self._over = True
        ray.cancel(self._stream, force=True)
        done, _ = ray.wait([self._stream.completed()], timeout=_END_S)
        if self._hello is not None and (not done or stream.runs_here(self._hello)):
            self._there(stream.end)

    def dump(self) -> str:
        """The stacks of its worker."""
        if self._hello is None:
            return f"it has not begun: it waits for node {self._node_id}"
        return str(self._there(stream.dump) or "its node does not answer")

    def _there(self, do: Any) -> object:
        """What ``do`` says about the worker, asked on its own host; None when there is no answer."""
        if self._hello is None or stream.runs_here(self._hello):
            return do(self._hello)
        strategy = NodeAffinitySchedulingStrategy(self._node_id, soft=False)
        answer = ray.remote(do).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(self._hello)
        try:
            return ray.get(answer, timeout=30.0)
        except RayError as error:
            log.warning("node %s does not answer: %s", self._node_id, type(error).__name__)
            return None


class Cluster:
    """The cluster that this process is connected to. ``elastic``: more nodes may come."""

    def __init__(self, *, elastic: bool, run_job: str, blobs_url: str, record: Record | None) -> None:
        self.elastic = elastic
        self._run_job = run_job
        self._blobs_url = blobs_url
        self._record = record

    def nodes(self) -> list[Node]:
        """The nodes that are alive. What is free lags behind by up to a second."""
        free = available_resources_per_node()  # type: ignore[no-untyped-call]
        return [
            Node(n["NodeID"], _room(n["Resources"], n["Labels"]), _room(free.get(n["NodeID"], {}), n["Labels"]))
            for n in ray.nodes()  # type: ignore[no-untyped-call]
            if n["Alive"]
        ]

    def run(self, lease: Lease, want: ResourceSpec, node: Node) -> RayTask:
        """Starts a job on a node."""
        started = _stream_job.options(
            name=f"{lease.job_id}:{lease.token}",
            num_cpus=want.cpus,
            num_gpus=want.gpus,
            memory=int(want.memory_gb * GB) if want.memory_gb is not None else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            _generator_backpressure_num_objects=_AHEAD,
        ).remote(self._run_job, lease.kind, dict(lease.spec), self._blobs_url, list(lease.events))
        return RayTask(started, node.id)

    def gone(self) -> str | None:
        """Why this cluster is of no more use, or None. Takes a few seconds when it does not answer."""
        if self._record is None:
            return None if _answers() else f"the Ray cluster has not answered for {_ANSWER_S:g} s"
        self._record.update()
        for part in _PARTS:
            for started in _processes(part):
                if (status := started.process.poll()) is not None:
                    return f"Ray's {part} has ended with status {status}"
        return None

    def clear(self) -> None:
        """Ends what a local cluster has left, without asking it."""
        if self._record is not None:
            self._record.close()


@contextmanager
def ray_cluster(
    address: str | None,
    records: Path,
    *,
    blobs_url: str,
    cpus: int | None = None,
    run_job: str = "workers.runner:run_job",
) -> Iterator[Cluster]:
    """Joins the cluster at ``address``, or runs a local one for as long as the block lasts.

    ``run_job`` names the function that runs a job on a worker, so that what it imports is imported there only.
    ``records`` is a folder for notes on what a local cluster has started, see ``workers.processes.sweep``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray lets every other program go first
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that were cancelled, which nobody waits for
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield Cluster(elastic=True, run_job=run_job, blobs_url=blobs_url, record=None)
        finally:
            ray.shutdown()
        return
    folder = session_folder()
    record = Record(records / f"{os.getpid()}.json", folder)
    try:
        _start_local(folder, cpus or available_cpus())
        record.update()
        yield Cluster(elastic=False, run_job=run_job, blobs_url=blobs_url, record=record)
    finally:
        ray.shutdown()
        record.close()


def session_folder() -> Path:
    """A new temporary folder in which the paths of Ray's sockets stay below the system's limit."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _MAX_TMP_BYTES:
        log.warning("%s is too long a path for Ray's sockets: using /tmp", parent)
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="nas-", dir=parent))


def _start_local(folder: Path, cpus: int) -> None:
    """A local Ray on loopback, with a secret of its own, no dashboard, and workers only while a job needs them, so that
    nothing runs beside a measurement. Its files go into ``folder``, whose path has to be short: sockets lie in it."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    usual = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # without this, a local Ray listens on every network interface
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = usual


def _room(resources: dict[str, float], labels: dict[str, str]) -> Room:
    """A node as Ray counts it. Ray's own labels go without their prefix, the random node id not at all."""
    named = {k.removeprefix("ray.io/"): v for k, v in labels.items() if k != "ray.io/node-id"}
    return Room(resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0) / GB, named)


def _processes(part: str) -> Sequence[Any]:
    node = ray._private.worker._global_node
    return node.all_processes.get(part, []) if node is not None else []


def _answers() -> bool:
    """Whether the cluster says that the node beside us, which we run through, is alive."""
    found: list[bool] = []

    def ask() -> None:
        own = ray.get_runtime_context().get_node_id()
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        found.append(any(n["NodeID"] == own and n["Alive"] for n in nodes))

    asking = threading.Thread(target=ask, daemon=True, name="is Ray there")
    asking.start()
    asking.join(_ANSWER_S)
    return found == [True]


@ray.remote(max_retries=0)
def _stream_job(*arguments: Any) -> Iterator[Any]:
    yield from stream.stream_job(*arguments)
