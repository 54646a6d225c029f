"""``nas serve``: everything in one process tree. The only place that knows every part."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn
from pydantic import ValidationError

from nas.core.errors import Conflict, InvalidInput, StorageError
from server.api.app import create_app
from server.api.sse import Streams
from server.dashboard.app import mount
from server.settings import Settings
from server.store.store import open_store
from workers.dispatcher import Dispatcher
from workers.processes import is_dead, owner_name
from workers.ray_cluster import ray_cluster


def serve(given: Mapping[str, Any]) -> None:
    """Runs until SIGINT or SIGTERM. ``given`` wins over the environment.

    Raises InvalidInput for settings that make no sense, Conflict for a port in use, StorageError for a folder that
    cannot be written; all before anything is started.
    """
    try:
        settings = Settings(**given)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"settings: {details}") from error
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line per request belongs to debugging: the dashboard asks every second or two.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    listener = _listen(settings.host, settings.port)
    port = listener.getsockname()[1]
    url = f"http://{'127.0.0.1' if settings.host == '0.0.0.0' else settings.host}:{port}"
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {settings.home} as home: {error.strerror}") from error
    with open_store(settings.database, settings.blobs) as store:
        streams = Streams()
        app = create_app(settings, store, streams)
        mount(app, url)
        released = store.jobs.release_dead(is_dead)
        if released:
            _say(f"{released} interrupted job(s) go on from their last checkpoint")
        with _quiet_threads(), ray_cluster(settings.ray_address) as capacity:
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
                dispatcher.stop()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {host}:{port}: {error.strerror or error}. "
            "Choose another port with --port, or --port 0 for a free one"
        ) from error
    return listener


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Workers decide their own thread counts; idle threads must not spin beside a measurement."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    yield


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
