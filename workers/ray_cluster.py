"""The Ray cluster, local or joined: its nodes, the jobs that run on them, and its health."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import ray
from ray._private import ray_constants
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.errors import HwnasError
from nas.core.jobs import Lease
from nas.core.scheduling import NodeResources
from nas.core.spec import ResourceSpec
from nas.cpus import available_cpus
from workers import stream
from workers.attempt import AttemptOutcome, EventBatch
from workers.placement import Node
from workers.processes import ProcessRecord

T = TypeVar("T")

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200 * 1024 * 1024  # jobs yield events, not tensors
GB = 1e9
_START_TIMEOUT_S = 300.0  # for the processes of a local Ray to start
_MAX_BUFFERED_BATCHES = 64  # of one worker, before backpressure stops it
_HEALTH_TIMEOUT_S = 4.0  # a cluster that does not respond for longer is considered lost
_CANCEL_TIMEOUT_S = 3.0  # a worker that does not end for longer is killed by a signal
_SECRET_VARIABLES = ("HWNAS_DATABASE_URL", "HWNAS_TOKEN")  # workers need neither
_RAY_PROCESSES = ("gcs_server", "raylet")
# Methods of Ray's node that start its dashboard (even without its pages), its autoscaler and its collector of logs:
# about 160 MB, and nobody looks at what they do. They are private, since nothing public turns these processes off.
_UNUSED_PROCESSES = ("start_api_server", "start_monitor", "start_log_monitor")
_TESTED_RAY = "2.60"  # whose private names are used here
_FEW_WORKERS = {  # no workers before there are jobs, and none of them left a minute after the last one
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_num_workers_soft_limit": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_MAX_TMP_BYTES = 107 - len("/nas-01234567/session_2026-11-30_12-00-00_000000_4194304/sockets/plasma_store")


class RayJob:
    """A ``workers.attempt.RunningJob`` on a Ray worker."""

    def __init__(self, generator: Any, node_id: str) -> None:
        self._stream = generator
        self._node_id = node_id
        self._worker: stream.WorkerHandshake | None = None
        self._ended = False

    @property
    def has_started(self) -> bool:
        """Whether a worker process has sent its handshake."""
        return self._worker is not None

    def poll(self, timeout_s: float) -> EventBatch | AttemptOutcome | None:
        """Wait up to ``timeout_s`` for more events or the outcome; None on timeout."""
        ready, _ = ray.wait([self._stream], timeout=timeout_s)
        if not ready:
            return None
        try:
            message: stream.WorkerHandshake | EventBatch | AttemptOutcome = ray.get(next(self._stream))
        except StopIteration:
            message = AttemptOutcome("succeeded")
        except RayTaskError as error:
            log.error("a job failed with an unexpected error\n%s", error)
            message = AttemptOutcome("failed", f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:
            message = AttemptOutcome("crashed", f"{type(error).__name__}: {str(error).splitlines()[0]}")
        if isinstance(message, stream.WorkerHandshake):
            self._worker = message
            return []
        self._ended = isinstance(message, AttemptOutcome)
        return message

    def kill(self) -> None:
        """Cancel the job if it still runs; a worker that ignores Ray is killed by a signal."""
        if self._ended:
            return
        self._ended = True
        ray.cancel(self._stream, force=True)
        done, _ = ray.wait([self._stream.completed()], timeout=_CANCEL_TIMEOUT_S)
        if self._worker is not None and (not done or stream.is_local(self._worker)):
            self._call_on_node(stream.kill_worker, self._worker)

    def dump_stacks(self) -> str:
        """Return the stacks of the worker process."""
        if self._worker is None:
            return f"it has not started: it waits for node {self._node_id}"
        return str(self._call_on_node(stream.dump_stacks, self._worker) or "its node does not respond")

    def _call_on_node(
        self, function: Callable[[stream.WorkerHandshake], T], worker: stream.WorkerHandshake
    ) -> T | None:
        """Call a function on the worker's own host; None if the node does not respond."""
        if stream.is_local(worker):
            return function(worker)
        strategy = NodeAffinitySchedulingStrategy(self._node_id, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}
        answer = ray.remote(function).options(**options).remote(worker)
        try:
            result: T = ray.get(answer, timeout=30.0)
            return result
        except RayError as error:
            log.warning("node %s does not respond: %s", self._node_id, type(error).__name__)
            return None


class RayCluster:
    """The Ray cluster that this process is connected to. ``elastic``: nodes may be added."""

    def __init__(self, *, elastic: bool, run_job: str, blobs_url: str, record: ProcessRecord | None) -> None:
        self.elastic = elastic
        self._run_job = run_job
        self._blobs_url = blobs_url
        self._record = record

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive. Free resources lag behind by up to a second."""
        free = available_resources_per_node()  # type: ignore[no-untyped-call]
        return [
            Node(
                n["NodeID"],
                _node_resources(n["Resources"], n["Labels"]),
                _node_resources(free.get(n["NodeID"], {}), n["Labels"]),
            )
            for n in ray.nodes()  # type: ignore[no-untyped-call]
            if n["Alive"]
        ]

    def start(self, lease: Lease, required: ResourceSpec, node: Node) -> RayJob:
        """Start a job on a node."""
        generator = _stream_job.options(
            name=f"{lease.job_id}:{lease.token}",
            num_cpus=required.cpus,
            num_gpus=required.gpus,
            memory=int(required.memory_gb * GB) if required.memory_gb is not None else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            _generator_backpressure_num_objects=_MAX_BUFFERED_BATCHES,
        ).remote(self._run_job, lease.payload, self._blobs_url, lease.events)
        return RayJob(generator, node.id)

    def failure(self) -> str | None:
        """Return why this cluster can no longer be used, or None. Takes a few seconds if it does not respond."""
        if self._record is None:
            return None if _responds() else f"the Ray cluster has not responded for {_HEALTH_TIMEOUT_S:g} s"
        self._record.update()
        for name in _RAY_PROCESSES:
            for process in _processes(name):
                if (status := process.process.poll()) is not None:
                    return f"Ray's {name} has ended with status {status}"
        return None

    def kill_processes(self) -> None:
        """Kill the processes of a local cluster, without using Ray."""
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
) -> Iterator[RayCluster]:
    """Join the cluster at ``address``, or run a local one while the block runs.

    ``run_job`` names the function that runs a job on a worker, so that its imports happen there only.
    ``records`` is a folder for ``workers.processes.ProcessRecord`` of a local cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray gives workers a low priority
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of cancelled tasks
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        try:
            yield RayCluster(elastic=True, run_job=run_job, blobs_url=blobs_url, record=None)
        finally:
            ray.shutdown()
        return
    for name in _SECRET_VARIABLES:  # every process of a local cluster inherits the environment
        os.environ.pop(name, None)
    folder = session_folder()
    record = ProcessRecord(records / f"{os.getpid()}.json", folder)
    try:
        _start_local(folder, cpus or available_cpus())
        record.update()
        yield RayCluster(elastic=False, run_job=run_job, blobs_url=blobs_url, record=record)
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
    """Start a local Ray on loopback with a random secret, and workers only while a job needs them and a minute longer,
    so that an idle service takes little memory and nothing runs beside a measurement. ``folder`` needs a short path,
    since it contains sockets."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for variable, value in _FEW_WORKERS.items():
        os.environ.setdefault(variable, value)
    with ExitStack() as patched:
        try:  # otherwise a local Ray listens on every network interface
            patched.enter_context(patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False))
        except AttributeError as error:
            reason = f"Ray {ray.__version__} cannot be kept to loopback in the way of Ray {_TESTED_RAY}: {error}"
            raise HwnasError(f"{reason}. Install ray=={_TESTED_RAY}.*") from error
        get_node = wait_for_node(ray._private.services.get_node, _START_TIMEOUT_S)
        patched.enter_context(patch.object(ray._private.services, "get_node", get_node))
        for method in unused_processes(ray.__version__):
            patched.enter_context(patch.object(ray._private.node.Node, method, _start_nothing))
        ray.init(
            address="local",
            num_cpus=cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )


def unused_processes(version: str) -> tuple[str, ...]:
    """The methods that start processes of Ray which a local cluster of one node does without: none of a version of Ray
    other than the tested one, whose processes all run."""
    if version.split(".")[:2] == _TESTED_RAY.split("."):
        return _UNUSED_PROCESSES
    log.warning(
        "expected Ray %s, got %s: its dashboard, autoscaler and log monitor are not turned off and take about 160 MB",
        _TESTED_RAY,
        version,
    )
    return ()


def _start_nothing(*_arguments: object, **_options: object) -> None:
    """In place of a method that starts a process of Ray which a local cluster of one node does without."""


def wait_for_node(
    get_node: Callable[[str, str], T],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[str, str], T]:
    """Wrap Ray's ``get_node`` to wait ``seconds`` for a node to register: Ray gives up after 30 s, in which a busy
    machine does not start its processes. Raises RuntimeError if the node has not registered by then."""

    def wait(gcs_address: str, node_id: str) -> T:
        deadline = clock() + seconds
        while True:
            try:
                return get_node(gcs_address, node_id)
            except RuntimeError:
                if clock() > deadline:
                    raise
            sleep(0.2)

    return wait


def _node_resources(resources: dict[str, float], labels: dict[str, str]) -> NodeResources:
    """Convert Ray's resources and labels of a node. Ray's own labels lose their prefix; the random node id is left
    out."""
    own_labels = {k.removeprefix("ray.io/"): v for k, v in labels.items() if k != "ray.io/node-id"}
    return NodeResources(
        resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0) / GB, own_labels
    )


def _processes(name: str) -> Sequence[Any]:
    node = ray._private.worker._global_node
    return node.all_processes.get(name, []) if node is not None else []


def _responds() -> bool:
    """Whether the cluster reports our own node as alive, within a timeout."""
    answers: list[bool] = []

    def query() -> None:
        own_id = ray.get_runtime_context().get_node_id()
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        answers.append(any(n["NodeID"] == own_id and n["Alive"] for n in nodes))

    thread = threading.Thread(target=query, daemon=True, name="Ray health")
    thread.start()
    thread.join(_HEALTH_TIMEOUT_S)
    return answers == [True]


@ray.remote(max_retries=0)
def _stream_job(*arguments: Any) -> Iterator[Any]:
    yield from stream.stream_job(*arguments)
