"""Keeps a ``nas dispatch`` alive beside the server."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from server.cli.dispatch import READY
from server.settings import Settings

STOP_S = 16.0  # for the child to put its jobs back and leave; then it is killed
LONGEST_PAUSE_S = 30.0
log = logging.getLogger(__name__)


class Supervisor:
    """Starts the dispatcher in a process group of its own and starts it anew when it dies, after a growing pause.

    The child's standard input stays open as long as this process lives: when it ends, the child leaves.
    """

    def __init__(self, settings: Settings, on_ready: Callable[[], None]) -> None:
        fields = settings.model_dump(mode="json", exclude_none=True)
        self._environment = {**os.environ, **{f"HWNAS_{k.upper()}": str(v) for k, v in fields.items()}}
        self._on_ready = on_ready
        self._stopping = threading.Event()
        self._child: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begins, in a thread of its own; ``on_ready`` is called once, when the first child is ready."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the dispatcher leave, then makes sure that it has."""
        self._stopping.set()
        child = self._child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                log.error("the dispatcher did not leave within %.0f s and is killed", STOP_S)
            self._kill_group(child)
        self._thread.join(2.0)

    def _keep(self) -> None:
        pause_s = 1.0
        told = False
        while not self._stopping.is_set():
            begun = time.monotonic()
            with subprocess.Popen(
                [sys.executable, "-m", "server.cli", "dispatch", "--supervised"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            ) as child:
                self._child = child
                if self._stopping.is_set():  # stopped while it was being started
                    child.terminate()
                assert child.stdout is not None
                for line in child.stdout:
                    if line.strip() == READY and not told:
                        told = True
                        self._on_ready()
                child.wait()
                self._kill_group(child)
            if self._stopping.is_set():
                return
            pause_s = 1.0 if time.monotonic() - begun > 2 * LONGEST_PAUSE_S else min(2 * pause_s, LONGEST_PAUSE_S)
            log.error("the dispatcher ended with status %s; starting it anew in %.0f s", child.returncode, pause_s)
            self._stopping.wait(pause_s)

    def _kill_group(self, child: subprocess.Popen[str]) -> None:
        """What the dispatcher left behind, such as the processes of its Ray."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
