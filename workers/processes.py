"""Who this process is, and whether another one still lives; so that a restart finds the jobs it left behind."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path


def owner_name() -> str:
    """``host:pid:start time``: a name that no other process on this host ever has."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether ``owner`` was a process of this host that runs no more. Of other hosts nothing is known: False."""
    host, _, rest = owner.partition(":")
    pid, _, start = rest.partition(":")
    return host == socket.gethostname() and pid.isdigit() and _start_time(int(pid)) != start


def _start_time(pid: int) -> str | None:
    """When a process began, in the system's own words; None if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # the name before may hold spaces
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "-".join(found.stdout.replace(":", ".").split()) or None
