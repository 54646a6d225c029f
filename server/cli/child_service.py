"""``nas serve`` for one home folder as a child of this process: started with patience, stopped at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from nas.client import Client, Unreachable
from nas.core.errors import Conflict, HwnasError, InvalidInput
from nas.schemas.service import HealthSchema
from server.cli.running import read_record
from server.cli.runtime import prepare_home
from server.cli.serve import listen
from server.settings import Settings

START_S = 1200.0  # on a machine at load 30, Ray needs minutes and more than one attempt
STOP_S = 30.0
REPEAT_S = 15.0  # without a terminal, the same wait is reported this often
_LIBRARIES = "waiting for the server, which loads its libraries and opens the database"
_RAY = "the server answers; waiting for Ray, which runs the work (minutes on a busy machine)"


class ServiceNotStarted(HwnasError):
    """The service ended, or was not ready in time."""

    code = "service_not_started"


@dataclass(frozen=True)
class RunningService:
    """``started_here``: this process started the service and stops it; otherwise it was there before."""

    url: str
    started_here: bool


class WaitLine:
    """Says what is waited for and for how long: one line on a terminal; elsewhere a line whenever the reason changes,
    and every ``REPEAT_S``."""

    def __init__(self, screen: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._start = clock()
        self._reason = ""
        self._printed_at = 0.0
        self._status = screen.status("") if screen.is_terminal else None

    def __enter__(self) -> WaitLine:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the wait began."""
        return self._clock() - self._start

    def update(self, reason: str) -> None:
        """The wait goes on for ``reason``."""
        line = f"{escape(reason)}: {self.elapsed_s:.0f} s"
        if self._status is not None:
            self._status.update(line)
        elif reason != self._reason or self._clock() - self._printed_at >= REPEAT_S:
            self._screen.print(line, soft_wrap=True)
            self._printed_at = self._clock()
        self._reason = reason


@contextmanager
def service_of(settings: Settings, screen: Console, *, port_given: bool) -> Iterator[RunningService]:
    """The service on the home of ``settings``: the one that runs there, or a child that is stopped at the end. A second
    SIGINT while the child stops kills it. If the port is in use and was not ``port_given``, the child takes a free one.

    Raises, before anything is started: InvalidInput for settings by which the child would use more than its home and
    this machine, Conflict for a given port in use, and StorageError for a folder that cannot be written. Raises
    ServiceNotStarted, with the end of its log, if the service is not ready in time.
    """
    record = read_record(settings.home)
    if record is not None:
        _wait_until_dispatching(record.url, screen)
        yield RunningService(record.url, started_here=False)
        return
    require_embedded(settings)
    port = settings.port
    try:
        listen(settings.host, port).close()
    except Conflict:
        if port_given:
            raise
        port = 0
        screen.print(f"Port {settings.port} is in use by another program: the service takes a free one.")
    prepare_home(settings)
    log = settings.home / "serve.log"
    command = [sys.executable, "-m", "server.cli", "serve", "--home", str(settings.home), "--port", str(port)]
    with log.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield RunningService(_wait_until_ready(child, settings.home, log, screen), started_here=True)
        finally:
            _stop(child, screen)


def require_embedded(settings: Settings) -> None:
    """Raises InvalidInput for settings by which ``nas serve`` would use more than its home folder and this machine."""
    from server.api.access import requires_tokens  # imported here, since FastAPI takes a second

    far = {
        "HWNAS_DATABASE_URL": settings.database_url != "",
        "HWNAS_BLOBS_URL": settings.blobs_url != "",
        "HWNAS_RAY_ADDRESS": settings.ray_address is not None,
        "HWNAS_DISPATCH": not settings.dispatch,
        "HWNAS_REQUIRE_TOKENS and HWNAS_HOST": requires_tokens(settings),
    }
    if names := [name for name, is_set in far.items() if is_set]:
        raise InvalidInput(f"expected the settings of a service on this machine alone: unset {', '.join(names)}")


def _wait_until_ready(child: subprocess.Popen[bytes], home: Path, log: Path, screen: Console) -> str:
    """The address of the service once its dispatcher is ready."""
    restarts = 0
    with WaitLine(screen) as wait:
        while wait.elapsed_s < START_S and child.poll() is None:
            lines = log.read_text(errors="replace").splitlines()
            again = [line for line in lines if "is started anew" in line]
            for line in again[restarts:]:
                screen.print(f"[yellow]{escape(line)}[/] (details: {escape(str(log))})", soft_wrap=True)
            restarts = len(again)
            record = read_record(home)
            if record is None or _health(record.url) is None:
                wait.update(_LIBRARIES)
            elif any("hwnas is ready" in line for line in lines):
                return record.url
            else:
                wait.update(_RAY)
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    why = f"was not ready within {START_S / 60:.0f} min" if child.poll() is None else "did not start"
    raise ServiceNotStarted(f"the service {why}; the end of {log}:\n{tail}")


def _wait_until_dispatching(url: str, screen: Console) -> None:
    with WaitLine(screen) as wait:
        while (health := _health(url)) is None or health.workers == 0:
            if wait.elapsed_s > START_S:
                why = "does not answer" if health is None else health.detail
                raise ServiceNotStarted(f"the service at {url} is not ready after {START_S / 60:.0f} min: {why}")
            wait.update(f"a service runs at {url}; waiting until it answers and has a dispatcher")
            time.sleep(0.2)


def _health(url: str) -> HealthSchema | None:
    try:
        with Client(url, token=os.environ.get("HWNAS_TOKEN") or None, timeout_s=5.0) as nas:
            return nas.health()
    except Unreachable:
        return None


def _stop(child: subprocess.Popen[bytes], screen: Console) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        with WaitLine(screen) as wait:
            while child.poll() is None and wait.elapsed_s < STOP_S:
                wait.update("stopping the service, which keeps its last result (Ctrl-C: at once)")
                time.sleep(0.1)
    except KeyboardInterrupt:
        pass  # the second one: what is in the database is safe, the rest need not be waited for
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
