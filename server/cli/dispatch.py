"""``nas dispatch``: the process that holds leases and the connection to Ray. ``nas serve`` runs one as its child."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from server.cli.start import prepare_home, read_settings, say
from server.logs import set_up
from server.settings import Settings

READY = "the dispatcher is ready"
LOST_RAY = 70  # exit status: start me anew
log = logging.getLogger(__name__)


def dispatch(given: Mapping[str, Any], *, supervised: bool) -> None:
    """Runs until SIGINT or SIGTERM, then leaves with exit status 0; with 70 when Ray is gone.

    ``supervised``: it also leaves when its standard input ends, which is held open by whoever started it. Raises
    InvalidInput for settings that make no sense, StorageError for a folder or database that cannot be used.
    """
    leave = threading.Event()

    def told(_number: int, _frame: FrameType | None) -> None:
        if leave.is_set():
            raise SystemExit(0)
        leave.set()

    signal.signal(signal.SIGINT, told)
    signal.signal(signal.SIGTERM, told)
    if supervised:
        threading.Thread(target=_wait_for_end, args=(leave,), name="parent", daemon=True).start()
    settings = read_settings(given)
    set_up(settings.log_level, settings.log_format)
    prepare_home(settings)
    _run(settings, leave, told)


def _run(settings: Settings, leave: threading.Event, told: Any) -> None:
    # Imported here, since it takes seconds and wrong settings should be heard of at once.
    from server.store.store import open_store
    from workers.dispatcher import Dispatcher
    from workers.processes import is_dead, owner_name
    from workers.ray_cluster import ray_cluster

    # Workers decide their own thread counts; idle threads must not spin beside a measurement.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with open_store(settings.database, settings.blobs) as store:
        released = store.jobs.release_dead(is_dead)
        if released:
            say(f"{released} interrupted job(s) go on from their last checkpoint")
        if leave.is_set():
            return
        with ray_cluster(settings.ray_address) as cluster:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, told)  # Ray has put a handler of its own, with another exit status

            def lost_ray() -> None:
                cluster.kill()
                os._exit(LOST_RAY)

            dispatcher = Dispatcher(
                store.jobs,
                cluster,
                settings.blobs,
                owner_name(),
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
                parallel_jobs=settings.parallel_jobs,
                stuck_seconds=settings.stuck_seconds,
                lost_ray=lost_ray,
            )
            dispatcher.start()
            sys.stdout.write(f"{READY}\n")
            sys.stdout.flush()
            while not leave.wait(60.0):
                pass
            dispatcher.stop()


def _wait_for_end(leave: threading.Event) -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    leave.set()
