"""Real Ray nodes on loopback, each a process tree of its own."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT
from workers.processes import descendants, send_signal

SECONDS = 90.0  # for a node to start

# A cluster that can span hosts takes this host's outer address wherever loopback is named; these nodes must not.
ON_LOOPBACK = """
import sys
from ray._private import services
services.get_node_ip_address = lambda address=None: "127.0.0.1"
"""
_START = f"""{ON_LOOPBACK}
from ray.scripts.scripts import main
sys.argv[0] = "ray"
main()
"""


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def ray_environment() -> dict[str, str]:
    """Variables for the nodes and the drivers of one cluster, which notices a dead node within seconds."""
    return {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_timeout_ms": "1000",
    }


class RayNode:
    """``ray start`` as a child process, with its descendants."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *words: str) -> None:
        self.log = folder / f"{len(list(folder.glob('*.log')))}.log"
        command = [sys.executable, "-c", _START, "start", "--block", "--node-ip-address", "127.0.0.1", *words]
        command += ["--object-store-memory", str(80_000_000), "--disable-usage-stats"]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)

    def raylet(self) -> int:
        """Return the process id of the node's raylet."""
        for name in descendants(self.child.pid):
            pid = int(name.split(":")[1])
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"/raylet"):
                return pid
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """Kill the node with all its processes."""
        for name in [*descendants(self.child.pid)]:
            send_signal(name, signal.SIGKILL)
        self.child.kill()
        self.child.wait()


@dataclass(frozen=True)
class TwoNodes:
    """A cluster: the ``address`` to join it at, its head ``west``, and the node ``east``."""

    address: str
    west: RayNode
    east: RayNode


@contextmanager
def two_nodes(folder: Path, environment: Mapping[str, str], cpus: int = 1) -> Iterator[TwoNodes]:
    """Two nodes with so many CPUs each, labelled by their zones. ``folder`` needs a short path, since sockets lie in
    it."""
    port = free_port()
    head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", str(folder / "a")]
    started = [RayNode(folder, environment, *head, "--num-cpus", str(cpus), "--labels", "zone=west")]
    try:
        deadline = time.monotonic() + SECONDS
        while not is_listening(port):
            if started[0].child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the head of the cluster did not start: {started[0].log.read_text()}")
            time.sleep(0.2)
        joined = ["--address", f"127.0.0.1:{port}", "--num-cpus", str(cpus), "--labels", "zone=east"]
        started.append(RayNode(folder, environment, *joined))
        yield TwoNodes(f"127.0.0.1:{port}", *started)
    finally:
        for node in started:
            node.stop()
