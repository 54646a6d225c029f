"""What one request costs when the queue is long: CPU time of a list page, of a claim, of the metrics, of idle event
streams, and of the first look at a long front after a restart.

Everything is measured with a short queue, too, in the same run: costs must not grow with the queue.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks._cli import Options, main
from benchmarks.service_fakes import World, Writer, add_device, evaluated
from benchmarks.service_load import served
from nas.core.access import Principal
from nas.core.events import StageFinished, StageStarted
from nas.core.spec import SearchSpec
from server.api.candidates import get_front
from server.api.metrics import CACHE_S, PrometheusMetrics
from server.api.sse import EventStreams
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support.databases import postgres_missing, postgres_server, postgres_url

PAGE = 50  # searches, as the API gives by default
REPEATS = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ScaleSize:
    """How much there is. ``few`` queued searches are the short queue; idle streams are watched for ``idle_s``."""

    few: int = 100
    queued: int = 10_000
    owners: int = 20
    streams: int = 64
    idle_s: float = 10.0
    candidates: int = 100_000


SMALL = ScaleSize(few=10, queued=60, owners=3, streams=3, idle_s=0.5, candidates=1_000)


def bench(options: Options) -> dict[str, Any]:
    """On SQLite, or on a PostgreSQL server that is started for it."""
    size = ScaleSize(queued=options.more["queued"], candidates=options.more["candidates"])
    world = World.make()
    with tempfile.TemporaryDirectory(prefix="hwnas-scale-") as folder:
        if not options.more["postgresql"]:
            return {"database": "sqlite", **measure(size, f"sqlite:///{folder}/hwnas.db", Path(folder), world)}
        if (missing := postgres_missing()) is not None:
            sys.exit(f"expected a PostgreSQL server: {missing}")
        with postgres_server() as server:
            return {"database": "postgresql", **measure(size, postgres_url(server, "scale"), Path(folder), world)}


def measure(size: ScaleSize, database: str, home: Path, world: World) -> dict[str, Any]:
    """Every figure for one database, which is empty at first."""
    settings = Settings(home=home, database_url=database, port=0, dispatch=False)
    with open_store(settings.database, settings.blobs) as store:
        add_device(store, world)
        search = explored(store, world, size.candidates)
        submit(store, world, size.few, size.owners)
        short = costs_ms(store)
        submit(store, world, size.queued - size.few, size.owners)
        long = costs_ms(store)
        lease = store.jobs.claim("idle", 3600.0)
        assert lease is not None
        with served(settings) as (url, pid), idle_streams(url, lease.job_id, size.streams):
            cores = busy_cores(pid, size.idle_s)
    return {
        **long,
        "idle_streams_cores": cores,
        "queued": size.queued,
        **front_ms(settings, search),
        "candidates": size.candidates,
        "short_queue": {"queued": size.few, **short},
    }


def submit(store: Store, world: World, searches: int, owners: int) -> None:
    """Queue searches of several owners, in turns."""
    for number in range(searches):
        by = Principal(f"owner {number % owners}", frozenset({"submit"}))
        spec = SearchSpec(name=f"search {number}", seed=number)
        store.jobs.submit(spec, None, space_id=world.space.id, by=by)


def explored(store: Store, world: World, candidates: int) -> str:
    """A search that has evaluated so many candidates; its id."""
    points = world.points(candidates, seed=3)
    store.jobs.submit(SearchSpec(), None, space_id=world.space.id)
    writer = Writer.claim(store, "explorer")
    assert writer is not None
    writer.events(StageStarted("estimate", 0, 5), StageFinished("estimate", 0.1, {"reference": world.reference()}))
    for start in range(0, candidates, 250):
        writer.append([evaluated(points[start : start + 250])])
    writer.finish()
    return writer.lease.job_id


def costs_ms(store: Store) -> dict[str, float]:
    """CPU time in ms of a list page, a claim, and the metrics."""
    now = [0.0]
    metrics = PrometheusMetrics(store, EventStreams(store.changes), lambda: now[0])

    def scrape() -> None:
        now[0] += 2 * CACHE_S
        if b"hwnas_database_up 1.0" not in metrics.text():
            raise RuntimeError("expected metrics of the database, got none")

    def claim() -> None:
        if store.jobs.claim("claimer", 3600.0) is None:
            raise RuntimeError("expected a search in the queue, found none")

    return {
        "list_ms": cpu_ms(lambda: store.queries.searches(None, PAGE, None).model_dump_json()),
        "claim_ms": cpu_ms(claim),
        "metrics_ms": cpu_ms(scrape),
    }


def cpu_ms(act: Callable[[], object]) -> float:
    """Median CPU time of this process, in ms."""
    act()
    times = []
    for _ in range(REPEATS):
        start_s = time.process_time()
        act()
        times.append(time.process_time() - start_s)
    return 1000.0 * median(times)


def front_ms(settings: Settings, search: str) -> dict[str, float]:
    """CPU time in ms of the first front that a new process of the service answers with, and of the next one."""
    gc.collect()  # what was left of filling the search is not part of an answer
    with open_store(settings.database, settings.blobs) as store:
        times = []
        for _ in range(2):
            start_s = time.process_time()
            get_front(search, store)
            times.append(1000.0 * (time.process_time() - start_s))
    return {"front_cold_ms": times[0], "front_warm_ms": times[1]}


@contextmanager
def idle_streams(url: str, job: str, count: int) -> Iterator[None]:
    """Event streams of a job that does nothing, all of whose past events were sent."""
    where = urlsplit(url)
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            stream = socket.create_connection((str(where.hostname), int(where.port or 80)), timeout=60.0)
            opened.append(stream)
            head = (
                f"GET /v1/searches/{job}/events HTTP/1.1\r\nHost: {where.netloc}\r\nAccept: text/event-stream\r\n\r\n"
            )
            stream.sendall(head.encode())
            answer = b""
            while b"claimed by" not in answer:
                answer += stream.recv(65536)
        time.sleep(1.0)
        yield
    finally:
        for stream in opened:
            stream.close()


def busy_cores(pid: int, seconds: float) -> float:
    """The share of a core that a process uses, over so many seconds."""
    before = _cpu_ticks(pid)
    time.sleep(seconds)
    return (_cpu_ticks(pid) - before) / _TICKS_PER_S / seconds


def _cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--queued", type=int, default=ScaleSize.queued, help="searches in the queue (%(default)s)")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL rather than SQLite")
    parser.add_argument("--candidates", type=int, default=ScaleSize.candidates, help="of the long front (%(default)s)")


if __name__ == "__main__":
    main("service_scale", bench, __doc__ or "", ("hwnas", "sqlalchemy", "fastapi"), more=_more)
