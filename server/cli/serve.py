"""``nas serve``: everything in one process tree. The only place that knows every part."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from pydantic import ValidationError

from nas.core.errors import Conflict, InvalidInput, StorageError
from server.settings import Settings


def serve(given: Mapping[str, Any]) -> None:
    """Runs until SIGINT or SIGTERM, then leaves with exit status 0. ``given`` wins over the environment.

    Raises InvalidInput for settings that make no sense, Conflict for a port in use, StorageError for a folder that
    cannot be written; all before anything is started.
    """
    _leave_when_told()
    try:
        settings = Settings(**given)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"settings: {details}") from error
    with _listen(settings.host, settings.port) as listener:
        try:
            settings.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use {settings.home} as home: {error.strerror}") from error
        _run(settings, listener)


def _run(settings: Settings, listener: socket.socket) -> None:
    # Imported here, since it takes seconds: whoever finds the port taken hears of it at once.
    import uvicorn

    from server.api.app import create_app
    from server.api.sse import Streams
    from server.dashboard.app import mount
    from server.store.store import open_store
    from workers.dispatcher import Dispatcher
    from workers.processes import is_dead, owner_name
    from workers.ray_cluster import ray_cluster

    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line per request belongs to debugging: the dashboard asks every second or two.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # Workers decide their own thread counts; idle threads must not spin beside a measurement.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    url = _url(settings.host, listener.getsockname()[1])
    with open_store(settings.database, settings.blobs) as store:
        app = create_app(settings, store, Streams())
        mount(app, url)
        released = store.jobs.release_dead(is_dead)
        if released:
            _say(f"{released} interrupted job(s) go on from their last checkpoint")
        with ray_cluster(settings.ray_address) as capacity:
            _leave_when_told()  # Ray has put a handler of its own, with another exit status
            dispatcher = Dispatcher(
                store.jobs,
                settings.blobs,
                owner_name(),
                capacity=capacity,
                lease_seconds=settings.lease_seconds,
                poll_seconds=settings.poll_seconds,
                parallel_jobs=settings.parallel_jobs,
            )
            dispatcher.start()
            _say(f"hwnas is ready: {url} (dashboard), {url}/docs (API); everything is kept in {settings.home}")
            try:
                config = uvicorn.Config(
                    app,
                    log_level=settings.log_level,
                    access_log=settings.log_level == "debug",
                    timeout_graceful_shutdown=3,
                )
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                _say("stopping; what is running goes on at the next start")
                dispatcher.stop()


def _leave_when_told() -> None:
    """SIGINT and SIGTERM unwind the stack. Once uvicorn has stopped, it raises the signal that stopped it again."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def _url(host: str, port: int) -> str:
    """Where this machine reaches a server that is bound to ``host``."""
    near = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens already: one that is only bound would let another server have the port as well."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        why = f"port {port} is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise Conflict(
            f"cannot listen on {host}:{port}: {why}. Choose another with --port PORT, or --port 0 for a free one"
        ) from error
    return listener


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
