"""Ray, local or joined."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._private import ray_constants

OBJECT_STORE_BYTES = 200 * 1024 * 1024  # jobs hand over events, not tensors


@contextmanager
def ray_cluster(address: str | None, cpus: int | None = None) -> Iterator[Mapping[str, float] | None]:
    """Joins the cluster at ``address``, or runs a local one for as long as the block lasts.

    Gives what there is for jobs (``CPU``, ``GPU``); None for a cluster that was joined, since that can grow.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray lets every other program go first
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of tasks that were cancelled, which nobody waits for
    if address is None:
        with tempfile.TemporaryDirectory(prefix="nas-", ignore_cleanup_errors=True) as folder:
            _start_local(folder, cpus or os.cpu_count() or 1)
            try:
                yield dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
            finally:
                ray.shutdown()
        return
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield None
    finally:
        ray.shutdown()


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
