"""Processes by an identity that no other process ever has, so that a restart finds what was left behind, and ends it.

A name or a number alone does not say which process is meant: numbers are used again.
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


def owner_name() -> str:
    """``host:pid:start time`` of this process: a name that no other process on this host ever has."""
    return name_of(os.getpid())


def name_of(pid: int) -> str:
    """``host:pid:start time`` of a process of this host."""
    return f"{socket.gethostname()}:{pid}:{_start_time(pid)}"


def is_dead(owner: str) -> bool:
    """Whether ``owner`` was a process of this host that runs no more. Of other hosts nothing is known: False."""
    host, pid, start = _parts(owner)
    return host == socket.gethostname() and pid is not None and _start_time(pid) != start


def is_here(owner: str) -> bool:
    """Whether ``owner`` is a process of this host that runs."""
    host, pid, start = _parts(owner)
    return host == socket.gethostname() and pid is not None and _start_time(pid) == start


def send(owner: str, number: signal.Signals) -> bool:
    """Sends a signal to a process of this host; False if it runs no more."""
    _, pid, _ = _parts(owner)
    if pid is None or not is_here(owner):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[str]:
    """The processes that ``pid`` has started, and those that they have, and so on; by name. Empty without ``/proc``."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found, look = [], [pid]
    while look:
        below = children.get(look.pop(), [])
        found += below
        look += below
    return [name_of(p) for p in sorted(found)]


class Record:
    """A file that says which processes and which folder one process started, for a start after its sudden death."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._written: list[str] | None = None
        self._owner = owner_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.update()

    def update(self) -> None:
        """Writes down what this process has started by now. A process that is reparented later stays in it."""
        known = [name for name in self._written or [] if is_here(name)]
        now = sorted({*known, *descendants(os.getpid())})
        if now != self._written:
            text = json.dumps({"owner": self._owner, "folder": str(self._folder), "processes": now})
            fresh = self._path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self._path)
            self._written = now

    def close(self) -> None:
        """Ends what still runs of it and forgets it."""
        self.update()
        _clear(self._written or [], self._folder)
        self._path.unlink(missing_ok=True)


def sweep(records: Path) -> int:
    """Ends the processes and removes the folders that dead processes left behind; how many processes."""
    count = 0
    for path in sorted(records.glob("*.json")):
        record = json.loads(path.read_text())
        if is_dead(record["owner"]):
            count += _clear(record["processes"], Path(record["folder"]))
            path.unlink(missing_ok=True)
    return count


def _clear(names: Iterable[str], folder: Path) -> int:
    left = [name for name in names if is_here(name)]
    for name in left:
        send(name, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    return len(left)


def _parts(owner: str) -> tuple[str, int | None, str]:
    host, _, rest = owner.partition(":")
    pid, _, start = rest.partition(":")
    return host, int(pid) if pid.isdigit() else None, start


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on; None for a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before may hold spaces
    except (FileNotFoundError, ProcessLookupError):
        return None


def _start_time(pid: int) -> str | None:
    """When a process began, in the system's own words; None if there is none."""
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        return None if fields is None or fields[0] == "Z" else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "-".join(found.stdout.replace(":", ".").split()) or None
