"""Keeps a child process running: starts it anew when it ends, and ends it when it is told to."""

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
STEADY_S = 60.0  # a child that was ready for so long had a good start


class Supervisor:
    """Runs ``command`` plus the number of a socket: the child writes ``ready`` there, and ends when the other side of
    it is closed, which also happens when this process dies. The child has a process group of its own.

    ``say`` takes what an operator should read; ``ready`` is called whenever a child is.
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
        self._told_at: float | None = None
        self._thread = threading.Thread(target=self._keep, name=f"supervisor of {name}", daemon=True)

    def start(self) -> None:
        """Starts the first child."""
        self._thread.start()

    def begin_stop(self) -> None:
        """Asks the child to end, without waiting for it; safe in a signal handler."""
        self._told_at = self._told_at or self._clock()
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Asks the child to end and waits. What has not ended after ``kill_s`` is killed with its process group."""
        with self._lock:
            self.begin_stop()
        child = self._child
        if child is not None:
            since_told = self._clock() - (self._told_at or 0.0)
            try:
                child.wait(max(0.0, self._kill_s - since_told))
            except subprocess.TimeoutExpired:
                self._say(f"the {self._name} did not end within {self._kill_s:g} s and is killed")
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._thread.join()

    def _keep(self) -> None:
        pause_s = self._first_pause_s
        while not self._stopping.is_set():
            status, ready_s = self._once()
            if self._stopping.is_set():
                return
            if ready_s >= STEADY_S:
                pause_s = self._first_pause_s
            how = f"was killed by signal {-status}" if status < 0 else f"has ended with status {status}"
            text = f"the {self._name} {how}; it is started anew in {pause_s:g} s"
            log.error(text)
            self._say(text)
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _once(self) -> tuple[int, float]:
        """Runs one child to its end: its exit status, and for how many seconds it was ready."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs, self._lock:
                if self._stopping.is_set():
                    return 0, 0.0
                self._child = child = subprocess.Popen(
                    [*self._command, str(theirs.fileno())],
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    process_group=0,
                )
            since = None
            while words := _read(ours):
                if b"ready" in words and since is None:
                    since = self._clock()
                    self._ready()
            status = child.wait()
        return status, 0.0 if since is None else self._clock() - since


def _read(channel: socket.socket) -> bytes:
    try:
        return channel.recv(64)
    except ConnectionResetError:
        return b""
