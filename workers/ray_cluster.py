"""Ray, local or joined: what its nodes have, what is free, and whether it still lives."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.state import available_resources_per_node

from nas.core.ports import Room

OBJECT_STORE_BYTES = 200 * 1024 * 1024  # jobs hand over events, not tensors
GB = 1e9
ANSWER_S = 5.0  # a cluster that does not answer for so long is taken for dead


class Cluster:
    """The cluster that this process has joined. ``elastic``: nodes may come that are not there yet."""

    def __init__(self, *, local: bool) -> None:
        self.elastic = not local
        node = ray_worker._global_node if local else None
        self._own: list[Any] = [p.process for ps in node.all_processes.values() for p in ps] if node else []
        vital = ("gcs_server", "raylet")
        self._vital: list[Any] = [p.process for kind in vital for p in node.all_processes[kind]] if node else []

    def nodes(self) -> list[Room]:
        """What each living node has."""
        return [_room(node["Resources"], node) for node in _nodes() if node["Alive"]]

    def free(self) -> list[Room]:
        """What each living node has left."""
        left: Mapping[str, Any] = available_resources_per_node()  # type: ignore[no-untyped-call]
        return [_room(left.get(node["NodeID"], {}), node) for node in _nodes() if node["Alive"]]

    def alive(self) -> bool:
        """Whether Ray can still run anything: its own processes live if it is local, else it answers in time."""
        if self._vital:
            return all(process.poll() is None for process in self._vital)
        answered = threading.Event()

        def ask() -> None:
            with contextlib.suppress(Exception):  # any failure to answer is the answer
                _nodes()
                answered.set()

        threading.Thread(target=ask, daemon=True).start()
        return answered.wait(ANSWER_S)

    def kill(self) -> None:
        """Ends the processes of a local Ray at once; those of a joined one are not ours."""
        for process in self._own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Cluster]:
    """Joins the cluster at ``address``, or runs a local one for as long as the block lasts."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray lets every other program go first
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that were cancelled, which nobody waits for
    if address is None:
        with tempfile.TemporaryDirectory(prefix="nas-", ignore_cleanup_errors=True) as folder:
            _start_local(folder, cpus or os.cpu_count() or 1)
            try:
                yield Cluster(local=True)
            finally:
                ray.shutdown()
        return
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield Cluster(local=False)
    finally:
        ray.shutdown()


def _nodes() -> list[dict[str, Any]]:
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def _room(resources: Mapping[str, float], node: Mapping[str, Any]) -> Room:
    return Room(
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        memory_gb=resources.get("memory", 0.0) / GB,
        labels={k: v for k, v in node["Labels"].items() if not k.startswith("ray.io/")},
    )


def _start_local(folder: str, cpus: int) -> None:
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
            _temp_dir=folder,
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = usual
