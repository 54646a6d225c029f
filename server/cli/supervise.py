"""Supervision of a child process: restart it when it ends, until it is asked to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

KILL_S = 18.0  # after SIGTERM
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
STEADY_S = 60.0  # after being ready for so long, a child restarts without a longer pause


class Supervisor:
    """Runs ``command`` with the file descriptor of a socket as its last argument.

    The child writes ``ready`` to the socket, and ends when the other side is closed, which also happens when this
    process dies. It has its own process group. ``say`` prints a message for the operator; ``ready`` is called whenever
    a child is ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        say: Callable[[str], None],
        ready: Callable[[], None],
        first_pause_s: float = FIRST_PAUSE_S,
        kill_s: float = KILL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._say = say
        self._ready = ready
        self._first_pause_s = first_pause_s
        self._kill_s = kill_s
        self._clock = clock
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._stop_requested_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"supervisor of {name}", daemon=True)

    def start(self) -> None:
        """Start the first child."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Ask the child to end, without waiting; safe in a signal handler."""
        self._stop_requested_at = self._stop_requested_at or self._clock()
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask the child to end and wait; after ``kill_s``, kill its process group."""
        with self._lock:
            self.begin_stop()
        child = self._child
        if child is not None:
            since_request_s = self._clock() - (self._stop_requested_at or 0.0)
            try:
                child.wait(max(0.0, self._kill_s - since_request_s))
            except subprocess.TimeoutExpired:
                self._say(f"the {self._name} did not end within {self._kill_s:g} s and is killed")
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._thread.join()

    def _run(self) -> None:
        pause_s = self._first_pause_s
        while not self._stopping.is_set():
            status, ready_s = self._run_child()
            if self._stopping.is_set():
                return
            if ready_s >= STEADY_S:
                pause_s = self._first_pause_s
            outcome = f"was killed by signal {-status}" if status < 0 else f"has ended with status {status}"
            text = f"the {self._name} {outcome}; it restarts in {pause_s:g} s"
            log.error(text)
            self._say(text)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _run_child(self) -> tuple[int, float]:
        """Run one child to its end: its exit status, and for how many seconds it was ready."""
        parent_end, child_end = socket.socketpair()
        with parent_end:
            with child_end, self._lock:
                if self._stopping.is_set():
                    return 0, 0.0
                self._child = child = subprocess.Popen(
                    [*self._command, str(child_end.fileno())],
                    env=self._environment,
                    pass_fds=[child_end.fileno()],
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
            ready_at = None
            while message := _read(parent_end):
                if b"ready" in message and ready_at is None:
                    ready_at = self._clock()
                    self._ready()
            status = child.wait()
        return status, 0.0 if ready_at is None else self._clock() - ready_at


def _read(channel: socket.socket) -> bytes:
    try:
        return channel.recv(64)
    except ConnectionResetError:
        return b""
