"""What the service is planned for, live: two servers, two dispatchers and two Ray nodes on one PostgreSQL, and many
small searches; in the middle, one of each is killed for good. No search may be lost, doubled, or end otherwise.

One search trains a supernet; all others reuse it with one seed, so that all must end with the same front. Clients send
each search to either server, with one idempotency key, until one of them has answered.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._cli import Options, main
from nas.client import Client, Unreachable
from nas.core.errors import HwnasError
from nas.core.spec import BudgetSpec, DeviceSpec, ExportSpec, RooflineSpec, SearchSpec, StrategySpec
from tests.support.databases import postgres_missing, postgres_server, postgres_url
from tests.support.ray_nodes import ON_LOOPBACK, TwoNodes, free_port, ray_environment, two_nodes

LEASE_S = 6.0
DEVICE = "a-roofline"
PARENT = SearchSpec(
    name="parent",
    device=DEVICE,
    strategy=StrategySpec(params={"epochs": 1}),
    budget=BudgetSpec(evaluations=8, verified=1),
    export=ExportSpec(count=1, int8=False),
)
_DISPATCH = f"""{ON_LOOPBACK}
from server.cli import main
sys.argv[1:] = ["dispatch"]
main()
"""


def bench(options: Options) -> dict[str, Any]:
    """All searches of one run."""
    if (missing := postgres_missing()) is not None:
        sys.exit(f"this benchmark needs a PostgreSQL server: {missing}")
    return run(options.more["searches"], 60.0 * options.more["minutes"])


def run(searches: int, seconds: float) -> dict[str, Any]:
    """Run so many searches, for so long at most; what became of them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nas-", ignore_cleanup_errors=True)))
        database = postgres_url(stack.enter_context(postgres_server(connections=200)), "replicas")
        environment = {**os.environ, **ray_environment(), "OMP_NUM_THREADS": "1"}
        nodes = stack.enter_context(two_nodes(folder, environment))
        service = stack.enter_context(replicas(folder, database, environment, nodes))
        parent = service.prepare()
        started_at = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            submitted = list(pool.map(service.submit, [_child(parent, number) for number in range(searches)]))
        until = started_at + seconds
        service.wait(lambda ended: ended >= searches // 3, until)
        service.kill_one_of_each()
        service.wait(lambda ended: ended >= searches, until)
        return {**service.verdict(submitted), "seconds": time.monotonic() - started_at}


def _child(parent: str, number: int) -> SearchSpec:
    return PARENT.model_copy(update={"name": f"search {number}", "supernet": parent})


@dataclass(frozen=True)
class Replicas:
    """The processes of the service: two of each kind, the second of which survives."""

    urls: tuple[str, str]
    servers: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
    dispatchers: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
    nodes: TwoNodes

    def prepare(self) -> str:
        """Add the device and train the supernet; the id of that search. Raises RuntimeError."""
        with Client(self.urls[1], timeout_s=60.0) as client:
            roofline = RooflineSpec(flops_per_s=1e11, bytes_per_s=1e10)
            client.add_device(DeviceSpec(name=DEVICE, source="roofline", roofline=roofline))
            for _ in client.watch_device(DEVICE):
                pass
            parent = client.submit(PARENT).id
            for _ in client.watch(parent):
                pass
            view = client.search(parent)
            if view.status != "succeeded":
                raise RuntimeError(f"the parent search {view.status}: {view.error}")
            return parent

    def submit(self, spec: SearchSpec) -> str:
        """Submit a search to either server until one has answered."""
        for attempt in range(100):
            try:
                with Client(self.urls[attempt % 2], timeout_s=30.0) as client:
                    return client.submit(spec, key=spec.name).id
            except (Unreachable, HwnasError) as error:
                if not isinstance(error, Unreachable) and error.code not in ("storage", "storage_busy"):
                    raise
                time.sleep(0.2)
        raise RuntimeError(f"{spec.name} was not accepted")

    def kill_one_of_each(self) -> None:
        """Kill a server, a dispatcher and a node, none of which comes back."""
        self.servers[0].kill()
        self.dispatchers[0].kill()
        os.kill(self.nodes.east.raylet(), signal.SIGKILL)

    def wait(self, enough: Any, until: float) -> None:
        """Wait until so many children have ended that it is ``enough``, or until the time is up."""
        while time.monotonic() < until and not enough(sum(view["status"] in _ENDED for view in self.children())):
            time.sleep(1.0)

    def children(self) -> list[dict[str, Any]]:
        """All searches but the parent, as the surviving server lists them."""
        views: list[dict[str, Any]] = []
        cursor: str | None = None
        with Client(self.urls[1], timeout_s=60.0) as client:
            while True:
                page = client.searches(limit=200, cursor=cursor)
                views += [view.model_dump() for view in page.items if view.spec.supernet is not None]
                cursor = page.next
                if cursor is None:
                    return views

    def verdict(self, submitted: Sequence[str]) -> dict[str, Any]:
        """What became of the searches."""
        views = self.children()
        names = Counter(view["spec"]["name"] for view in views)
        fronts: Counter[str] = Counter()
        successes: list[int] = []
        with Client(self.urls[1], timeout_s=60.0) as client:
            for view in views:
                events = client.events(view["id"], limit=1000, kind="status").items
                successes.append(sum(event.body["after"] == "succeeded" for event in events))
                members = client.front(view["id"]).members
                fronts[json.dumps([(m.genes, {k: v.value for k, v in m.metrics.items()}) for m in members])] += 1
        return {
            "searches": len(submitted),
            "succeeded": sum(view["status"] == "succeeded" for view in views),
            "lost": len(set(submitted) - {view["id"] for view in views}) + sum(count == 0 for count in successes),
            "doubled": sum(count - 1 for count in names.values()) + sum(max(0, count - 1) for count in successes),
            "fronts": len(fronts),
            "resumed": sum(view["attempts"] > 1 for view in views),
            "statuses": dict(Counter(view["status"] for view in views)),
        }


_ENDED = ("succeeded", "failed", "cancelled", "quarantined")


@contextmanager
def replicas(folder: Path, database: str, environment: Mapping[str, str], nodes: TwoNodes) -> Iterator[Replicas]:
    """Two servers and two dispatchers that share a database, a folder of blobs and a cluster."""
    shared = {
        **environment,
        "HWNAS_DATABASE_URL": database,
        "HWNAS_BLOBS_URL": str(folder / "blobs"),
        "HWNAS_RAY_ADDRESS": nodes.address,
        "HWNAS_LEASE_SECONDS": str(LEASE_S),
        "HWNAS_DISPATCH": "false",
        "HWNAS_PARALLEL_JOBS": "2",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, command: Sequence[str], **more: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            own = {**shared, "HWNAS_HOME": str(folder / name), **more}
            child = subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True)
        started.append(child)
        return child

    try:
        ports = (free_port(), free_port())
        serve = [sys.executable, "-m", "server.cli", "serve"]
        servers = [start(f"s{n}", serve, HWNAS_PORT=str(port)) for n, port in enumerate(ports)]
        dispatchers = [start(f"d{n}", [sys.executable, "-c", _DISPATCH]) for n in range(2)]
        urls = (f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}")
        service = Replicas(urls, (servers[0], servers[1]), (dispatchers[0], dispatchers[1]), nodes)
        _await_workers(service, folder)
        yield service
    finally:
        for child in started:
            child.kill()
            child.wait()


def _await_workers(service: Replicas, folder: Path) -> None:
    """Wait until both servers see both dispatchers. Raises RuntimeError."""
    deadline = time.monotonic() + 120.0
    for url in service.urls:
        while True:
            try:
                with Client(url, timeout_s=10.0) as client:
                    if len(client.workers()) == 2:
                        break
            except (Unreachable, HwnasError):
                pass
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
                raise RuntimeError(f"the service did not come up:\n{logs}")
            time.sleep(0.5)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--searches", type=int, default=200, help="small searches (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="longest time to wait for them (%(default)s)")


if __name__ == "__main__":
    main("replicas", bench, __doc__ or "", ("hwnas", "ray", "sqlalchemy"), more=_more)
