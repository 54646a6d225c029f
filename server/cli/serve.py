"""``nas serve``: the API and the dashboard, with a dispatcher in a child process."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from nas.core.errors import Conflict, HwnasError, InvalidInput
from server.cli.running import recorded
from server.cli.runtime import SettingOverrides, exit_on_signals, prepare_home, read_settings, say, share_data_cache
from server.cli.supervise import Supervisor
from server.logs import set_up
from server.settings import Settings

if TYPE_CHECKING:
    from server.store.store import Store

log = logging.getLogger(__name__)


def serve(overrides: SettingOverrides) -> None:
    """Run until SIGINT or SIGTERM, then exit with status 0. ``overrides`` win over settings in the environment.

    Raises InvalidInput for invalid settings, Conflict for a port in use, StorageError for a folder that cannot be
    written; all before anything is started.
    """
    exit_on_signals()
    settings = read_settings(overrides)
    set_up(settings.log_level, settings.log_format)
    with listen(settings.host, settings.port) as listener:
        prepare_home(settings)
        share_data_cache(settings)
        url = _url(settings.host, listener.getsockname()[1])
        with recorded(settings.home, url):
            _run(settings, listener, url)


def _run(settings: Settings, listener: socket.socket, url: str) -> None:
    # Imported here, because it takes a while and a port in use should be reported at once.
    import uvicorn

    from server import webhooks
    from server.api.access import requires_tokens
    from server.api.app import create_app
    from server.api.http import server_config
    from server.dashboard.app import mount
    from server.store.store import open_store

    ready = f"hwnas is ready: {url} (dashboard), {url}/docs (API); all data is stored in {settings.home}"
    if not settings.dispatch:
        ready += "; searches wait for an external dispatcher"
    with open_store(settings.database, settings.blobs) as store:
        if requires_tokens(settings) and not store.tokens.any_valid():
            why = "which asks for tokens" if settings.require_tokens else "which other machines can reach"
            raise InvalidInput(
                f"expected a token before the service listens on {settings.host}, {why}; there is none. "
                "Create one: nas tokens create --owner YOU --name first --scope admin"
            )
        announce = Announcement(ready, {"server", "dispatcher"} if settings.dispatch else {"server"})
        supervisor = Supervisor(
            "dispatcher",
            [sys.executable, "-m", "server.cli", "dispatch", "--supervised"],
            {**os.environ, **settings.as_environment()},
            say=say,
            ready=lambda: announce("dispatcher"),
        )
        stopping = threading.Event()
        threading.Thread(
            target=_collect_garbage_hourly, args=(store, stopping), name="garbage collection", daemon=True
        ).start()
        webhooks.start(store, settings, url, stopping)
        if settings.dispatch:
            supervisor.start()

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                gc.freeze()  # modules are never freed, and scanning them delays a request by 0.1 s
                announce("server")

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                supervisor.begin_stop()  # so that dispatcher and server stop in parallel
                super().handle_exit(sig, frame)

        try:
            app = create_app(settings, store)
            mount(app, url, closed=requires_tokens(settings))
            Server(server_config(app, settings)).run(sockets=[listener])
        finally:
            stopping.set()
            if settings.dispatch:
                say("stopping; running searches continue at the next start")
                supervisor.stop()


class Announcement:
    """Prints a text once, when every part has reported."""

    def __init__(self, text: str, parts: set[str]) -> None:
        self._text = text
        self._missing = parts

    def __call__(self, part: str) -> None:
        """Report that ``part`` is ready."""
        if part in self._missing:
            self._missing.remove(part)
            if not self._missing:
                say(self._text)


def _collect_garbage_hourly(store: Store, stopping: threading.Event) -> None:
    """Delete blobs that nothing refers to, every hour."""
    while not stopping.wait(3600.0):
        try:
            collected = store.collect()
            log.info("%d blobs collected, %d in use", collected.removed, collected.referenced)
        except HwnasError as error:
            log.error("garbage collection failed: %s", error)


def _url(host: str, port: int) -> str:
    """The URL by which this machine reaches a server bound to ``host``."""
    local_host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{local_host}]:{port}" if ":" in local_host else f"http://{local_host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: one that is only bound would let another server use the port too.

    Raises Conflict for an address that cannot be bound.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        reason = f"port {port} is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise Conflict(
            f"cannot listen on {host}:{port}: {reason}. Choose another with --port PORT, or --port 0 for a free one"
        ) from error
    return listener
