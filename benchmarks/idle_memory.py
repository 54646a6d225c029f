"""The memory of an idle service: the proportional set size (PSS) of all its processes, some time after it is ready.

The service is ``nas serve`` with a dispatcher on an empty home. PSS divides each shared page by the number of processes
that map it, so the sum over the process tree is what the service occupies. Needs Linux.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks._cli import ROOT, Options, main
from workers.processes import descendants

READY_S = 300.0  # for the service to start
STEADY_S, STEADY_SHARE = 3.0, 0.01  # settled: for so long the same processes, their memory within this share
SETTLE_S = 60.0  # for what starting needed to end
GOAL_MB = 600.0


@contextmanager
def idle_service(home: Path) -> Iterator[int]:
    """Start a service and wait until it is ready and settled; its process id."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HWNAS_")}
    log = home / "log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "server.cli", "serve", "--home", str(home), "--port", "0"]
        process = subprocess.Popen(command, env=own, cwd=ROOT, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + READY_S
        while "is ready: " not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start:\n{log.read_text()}")
            time.sleep(0.5)
        _wait_until_settled(process.pid)
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_settled(pid: int) -> None:
    """Wait until the processes and their memory have stayed the same for a while. Raises RuntimeError where they do
    not."""
    deadline = time.monotonic() + SETTLE_S
    before, since_s = sizes_mb(pid), time.monotonic()
    while time.monotonic() < since_s + STEADY_S:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service did not settle within {SETTLE_S:g} s: {before}")
        time.sleep(0.5)
        now = sizes_mb(pid)
        change_mb = abs(sum(now.values()) - sum(before.values()))
        if now.keys() != before.keys() or change_mb > STEADY_SHARE * sum(before.values()):
            before, since_s = now, time.monotonic()


def sizes_mb(pid: int) -> dict[str, float]:
    """The proportional set size of a process and of each of its descendants in MB, by what they run."""
    sizes = {}
    for p, command in process_tree(pid).items():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            sizes[command] = pss_mb(p)
    return sizes


def process_tree(pid: int) -> dict[int, str]:
    """What a process and its descendants run, by process id, each with its id."""
    programs = {}
    for p in [pid, *(int(name.split(":")[1]) for name in descendants(pid))]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            programs[p] = f"{program(p)} ({p})"
    return programs


def program(pid: int) -> str:
    """The program of a process and its command, without paths."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return " ".join(Path(word).name for word in words if word and not word.startswith("-"))[:40]


def pss_mb(pid: int) -> float:
    """The proportional set size of a process in MB."""
    match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def bench(_options: Options) -> dict[str, Any]:
    """Measure an idle service once it has settled."""
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, idle_service(Path(folder)) as pid:
        sizes = {command: round(size_mb, 1) for command, size_mb in sizes_mb(pid).items()}
    return {"idle_mb": round(sum(sizes.values()), 1), "goal_mb": GOAL_MB, "processes": sizes}


if __name__ == "__main__":
    main("idle_memory", bench, "memory of an idle service, in MB", ("ray", "torch", "nicegui", "onnxruntime"))
