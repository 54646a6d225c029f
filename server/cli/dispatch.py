"""``nas dispatch``: the process that holds leases and the connection to Ray. ``nas serve`` runs one as its child."""

from __future__ import annotations

import logging
import os
import platform
import queue
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

from server.cli.start import leave_when_told, prepare_home, read_settings, say
from server.logs import set_up
from server.settings import Settings

log = logging.getLogger(__name__)

LOST_RAY = 70  # exit status: start me anew
WATCH_S = 1.0
END_S = 16.0  # what has not ended by then hangs

Ends = queue.SimpleQueue[Literal["told", "orphan", "gone"]]


def dispatch(given: Mapping[str, Any], *, supervised: int | None) -> None:
    """Runs until SIGINT or SIGTERM, then leaves with exit status 0; with 70 when Ray is gone.

    ``supervised`` is a socket of whoever started this process: it is told when jobs are taken, and when its other side
    is closed, this process leaves. Raises InvalidInput for settings that make no sense, StorageError for a folder or
    database that cannot be used.
    """
    leave_when_told()
    ends: Ends = queue.SimpleQueue()
    ready = threading.Event()
    channel = socket.socket(fileno=supervised) if supervised is not None else None
    if channel is not None:
        channel.set_inheritable(False)
        threading.Thread(target=_follow_parent, args=(channel, ends, ready), daemon=True, name="parent").start()
    settings = read_settings(given)
    set_up(settings.log_level, settings.log_format)
    prepare_home(settings)
    # Workers decide their own thread counts; idle threads must not spin beside a measurement.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _run(settings, ends, ready, channel)


def _run(settings: Settings, ends: Ends, ready: threading.Event, channel: socket.socket | None) -> None:
    # Imported here, since it takes seconds and wrong settings should be heard of at once.
    from nas.core.device import MeasurementProtocol
    from predictors.measurement.onnx_runtime import describe_machine
    from server.store.store import open_store
    from workers.dispatcher import GRACE_S, Dispatcher
    from workers.processes import is_dead, owner_name, sweep
    from workers.ray_cluster import ray_cluster

    records = settings.home / "ray"
    with open_store(settings.database, settings.blobs) as store:
        if left := sweep(records):
            log.warning("ended %d process(es) that an interrupted dispatcher had left behind", left)
        if released := store.jobs.release_dead(is_dead):
            say(f"{released} interrupted job(s) go on from their last checkpoint")
        with ray_cluster(settings.ray_address, records, blobs_url=settings.blobs) as cluster:
            dispatcher = Dispatcher(
                store.jobs,
                cluster,
                owner_name(),
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
                parallel_jobs=settings.parallel_jobs,
                stuck_seconds=settings.stuck_seconds,
                machine=describe_machine(platform.node(), MeasurementProtocol()),
            )
            for number in (signal.SIGINT, signal.SIGTERM):  # Ray has put handlers of its own
                signal.signal(number, lambda *_: ends.put("told"))
            dispatcher.start()
            rooms = [node.total for node in cluster.nodes()]
            cores, gpus = sum(r.cpus for r in rooms), sum(r.gpus for r in rooms)
            say(f"hwnas dispatcher is ready: {len(rooms)} node(s), {cores:g} CPU cores, {gpus:g} GPUs")
            ready.set()
            if channel is not None:
                channel.sendall(b"ready\n")
            gone: list[str] = []

            def watch() -> None:
                while (why := cluster.gone()) is None:
                    time.sleep(WATCH_S)
                gone.append(why)
                ends.put("gone")

            threading.Thread(target=watch, daemon=True, name="is Ray there").start()
            how = ends.get()
            threading.Thread(target=_force, daemon=True, name="force").start()
            if how == "gone":
                say(f"{gone[0]}; the dispatcher ends, its jobs go back into the queue")
                dispatcher.abandon(gone[0])
                cluster.clear()
                logging.shutdown()
                os._exit(LOST_RAY)  # nothing that waits for Ray may hold this up
            dispatcher.stop(GRACE_S if how == "told" else 0.0)


def _follow_parent(channel: socket.socket, ends: Ends, ready: threading.Event) -> None:
    while channel.recv(64):
        pass
    if not ready.is_set():
        os._exit(1)
    ends.put("orphan")


def _force() -> None:
    time.sleep(END_S)
    log.error("the dispatcher did not end within %g s", END_S)
    logging.shutdown()
    os._exit(1)
