"""Unique process identities, so that a restart finds and kills orphaned processes.

A process id alone does not identify a process, since ids are reused.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)


def own_process_name() -> str:
    """Return ``host:pid:start time`` of this process, which no other process on this host ever has."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Return ``host:pid:start time`` of a process on this host."""
    return f"{socket.gethostname()}:{pid}:{_start_time(pid)}"


def is_dead(name: str) -> bool:
    """Whether a process of this host has ended. False for a process of another host."""
    host, pid, start = _parse_name(name)
    return host == socket.gethostname() and pid is not None and _start_time(pid) != start


def is_alive(name: str) -> bool:
    """Whether a process of this host is running. False for a process of another host."""
    host, pid, start = _parse_name(name)
    return host == socket.gethostname() and pid is not None and _start_time(pid) == start


def send_signal(name: str, number: signal.Signals) -> bool:
    """Send a signal to a process of this host; False if it has ended."""
    _, pid, _ = _parse_name(name)
    if pid is None or not is_alive(name):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[str]:
    """Return the names of all descendants of a process. Empty on a system without ``/proc``."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    pids, parents = [], [pid]
    while parents:
        below = children.get(parents.pop(), [])
        pids += below
        parents += below
    return [process_name(p) for p in sorted(pids)]


class ProcessRecord:
    """A file that lists the child processes and the temporary folder of this process, for cleanup after a crash."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._written: list[str] | None = None
        self._owner = own_process_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.update()

    def update(self) -> None:
        """Write the current descendants. A recorded process stays in the file if it is reparented later."""
        recorded = [name for name in self._written or [] if is_alive(name)]
        now = sorted({*recorded, *descendants(os.getpid())})
        if now != self._written:
            text = json.dumps({"owner": self._owner, "folder": str(self._folder), "processes": now})
            fresh = self._path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self._path)
            self._written = now

    def close(self) -> None:
        """Kill the recorded processes, and remove their folder and the file."""
        self.update()
        _kill(self._written or [], self._folder)
        self._path.unlink(missing_ok=True)


def kill_orphans(records: Path) -> int:
    """Kill the recorded processes of dead processes and remove their folders. Returns the number of processes."""
    count = 0
    for path in sorted(records.glob("*.json")):
        record = json.loads(path.read_text())
        if is_dead(record["owner"]):
            count += _kill(record["processes"], Path(record["folder"]))
            path.unlink(missing_ok=True)
    return count


def _kill(names: Iterable[str], folder: Path) -> int:
    alive = [name for name in names if is_alive(name)]
    for name in alive:
        send_signal(name, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    return len(alive)


def _parse_name(name: str) -> tuple[str, int | None, str]:
    host, _, process = name.partition(":")
    pid, _, start = process.partition(":")
    return host, int(pid) if pid.isdigit() else None, start


def _stat(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the state on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before may hold spaces
    except (FileNotFoundError, ProcessLookupError):
        return None


def _start_time(pid: int) -> str | None:
    """Return when a process started, in the system's own format; None if there is no such process."""
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        return None if fields is None or fields[0] == "Z" else fields[19]
    listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "-".join(listing.stdout.replace(":", ".").split()) or None
