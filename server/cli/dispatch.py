"""``nas dispatch``: the process that holds leases and the connection to Ray. ``nas serve`` runs it as a child."""

from __future__ import annotations

import logging
import os
import platform
import queue
import signal
import socket
import threading
import time
from typing import Literal

from server.cli.runtime import SettingOverrides, exit_on_signals, prepare_home, read_settings, say, share_data_cache
from server.logs import set_up
from server.settings import Settings

log = logging.getLogger(__name__)

LOST_RAY = 70  # exit status: the supervisor should restart this process
CHECK_RAY_S = 1.0
STOP_TIMEOUT_S = 16.0

StopReasons = queue.SimpleQueue[Literal["signal", "orphaned", "ray lost"]]


def dispatch(overrides: SettingOverrides, *, supervised: int | None) -> None:
    """Run until SIGINT or SIGTERM, then exit with status 0; with 70 when the connection to Ray is lost.

    ``supervised`` is the file descriptor of a socket to the parent process: this process reports on it that it takes
    jobs, and exits when the parent closes it. Raises InvalidInput for invalid settings, StorageError for a folder or
    database that cannot be used.
    """
    exit_on_signals()
    stop_reasons: StopReasons = queue.SimpleQueue()
    ready = threading.Event()
    channel = socket.socket(fileno=supervised) if supervised is not None else None
    if channel is not None:
        channel.set_inheritable(False)
        threading.Thread(target=_follow_parent, args=(channel, stop_reasons, ready), daemon=True, name="parent").start()
    settings = read_settings(overrides)
    set_up(settings.log_level, settings.log_format)
    prepare_home(settings)
    share_data_cache(settings)
    # Workers decide their own thread counts; idle threads must not spin beside a measurement.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _run(settings, stop_reasons, ready, channel)


def _run(settings: Settings, stop_reasons: StopReasons, ready: threading.Event, channel: socket.socket | None) -> None:
    # Imported here, because it takes seconds and invalid settings should be reported at once.
    from nas.core.device import MeasurementProtocol
    from predictors.measurement.machine import describe_machine
    from server.store.store import open_store
    from workers.dispatcher import GRACE_S, Dispatcher
    from workers.processes import is_dead, kill_orphans, own_process_name
    from workers.ray_cluster import ray_cluster

    records = settings.home / "ray"
    with open_store(settings.database, settings.blobs) as store:
        if orphans := kill_orphans(records):
            log.warning("killed %d orphaned process(es) of an interrupted dispatcher", orphans)
        if released := store.jobs.release_dead(is_dead):
            say(f"{released} interrupted job(s) continue from their last checkpoint")
        with ray_cluster(settings.ray_address, records, blobs_url=settings.blobs) as cluster:
            dispatcher = Dispatcher(
                store.jobs,
                cluster,
                own_process_name(),
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
                parallel_jobs=settings.parallel_jobs,
                stuck_seconds=settings.stuck_seconds,
                hang_seconds=settings.hang_seconds,
                machine=describe_machine(platform.node(), MeasurementProtocol()),
            )
            for number in (signal.SIGINT, signal.SIGTERM):  # Ray has replaced the handlers
                signal.signal(number, lambda *_: stop_reasons.put("signal"))
            dispatcher.start()
            nodes = [node.total for node in cluster.nodes()]
            cores, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
            say(f"hwnas dispatcher is ready: {len(nodes)} node(s), {cores:g} CPU cores, {gpus:g} GPUs")
            ready.set()
            if channel is not None:
                channel.sendall(b"ready\n")
            lost: list[str] = []

            def watch_ray() -> None:
                while (why := cluster.failure()) is None:
                    time.sleep(CHECK_RAY_S)
                lost.append(why)
                stop_reasons.put("ray lost")

            threading.Thread(target=watch_ray, daemon=True, name="watch Ray").start()
            reason = stop_reasons.get()
            threading.Thread(target=_force, daemon=True, name="force").start()
            if reason == "ray lost":
                say(f"{lost[0]}; the dispatcher ends, its jobs return to the queue")
                dispatcher.abandon(lost[0])
                cluster.kill_processes()
                logging.shutdown()
                os._exit(LOST_RAY)  # at once: threads may still wait for Ray
            dispatcher.stop(GRACE_S if reason == "signal" else 0.0)


def _follow_parent(channel: socket.socket, stop_reasons: StopReasons, ready: threading.Event) -> None:
    while channel.recv(64):
        pass
    if not ready.is_set():
        os._exit(1)
    stop_reasons.put("orphaned")


def _force() -> None:
    time.sleep(STOP_TIMEOUT_S)
    log.error("the dispatcher did not end within %g s", STOP_TIMEOUT_S)
    logging.shutdown()
    os._exit(1)
