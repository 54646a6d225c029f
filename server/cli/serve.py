"""``nas serve``: API and dashboard, and a dispatcher as a child process. The only place that knows every part."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
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
    leave_when_told()
    settings = read_settings(given)
    with _listen(settings.host, settings.port) as listener:
        use_home(settings)
        _run(settings, listener, given)


def _run(settings: Settings, listener: socket.socket, given: Mapping[str, Any]) -> None:
    from server.cli.supervisor import Supervisor

    url = _url(settings.host, listener.getsockname()[1])
    announce = Announcement(
        f"hwnas is ready: {url} (dashboard), {url}/docs (API); everything is kept in {settings.home}",
        {"server", "dispatcher"} if settings.dispatch else {"server"},
    )
    environment = {**os.environ, **{f"HWNAS_{k.upper()}": str(v) for k, v in given.items()}}
    supervisor = Supervisor(
        "dispatcher",
        [sys.executable, "-m", "server.cli", "dispatch", "--parent"],
        environment,
        say=say,
        ready=lambda: announce("dispatcher"),
    )
    if settings.dispatch:
        supervisor.start()  # first, since it takes longer than the server does
    try:
        _serve(settings, listener, url, started=lambda: announce("server"), told=supervisor.begin_stop)
    finally:
        if settings.dispatch:
            say("stopping; what is running goes on at the next start")
            supervisor.stop()


def _serve(
    settings: Settings, listener: socket.socket, url: str, started: Callable[[], None], told: Callable[[], None]
) -> None:
    """API and dashboard until a signal, whose handler calls ``told``: server and dispatcher stop at the same time."""
    # Imported here, since it takes seconds: whoever finds the port taken hears of it at once.
    import uvicorn

    from server.api.app import create_app
    from server.api.sse import Streams
    from server.dashboard.app import mount
    from server.store.store import open_store

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            started()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            told()
            super().handle_exit(sig, frame)

    start_logging(settings)
    with open_store(settings.database, settings.blobs) as store:
        app = create_app(settings, store, Streams())
        mount(app, url)
        config = uvicorn.Config(
            app,
            log_level=settings.log_level,
            access_log=settings.log_level == "debug",
            timeout_graceful_shutdown=3,
        )
        Server(config).run(sockets=[listener])


class Announcement:
    """Says a text once, when every part has reported."""

    def __init__(self, text: str, parts: set[str]) -> None:
        self._text = text
        self._missing = parts

    def __call__(self, part: str) -> None:
        """``part`` is ready."""
        if part in self._missing:
            self._missing.remove(part)
            if not self._missing:
                say(self._text)


def read_settings(given: Mapping[str, Any]) -> Settings:
    """The settings, of which ``given`` wins over the environment. Raises InvalidInput."""
    try:
        return Settings(**given)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise InvalidInput(f"settings: {details}") from error


def use_home(settings: Settings) -> None:
    """Makes the folder that everything is kept in. Raises StorageError."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot use {settings.home} as home: {error.strerror}") from error


def start_logging(settings: Settings) -> None:
    """The log on standard error."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line per request belongs to debugging: the dashboard asks every second or two.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def leave_when_told() -> None:
    """SIGINT and SIGTERM unwind the stack. Once uvicorn has stopped, it raises the signal that stopped it again."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def say(text: str) -> None:
    """A line for the operator, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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
