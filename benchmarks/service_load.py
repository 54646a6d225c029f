"""The service under load: a thousand submits, a queue that is drained, events, long fronts and many streams.

The server is ``nas serve`` in a process of its own; the workers are made up and write through the job store, as a
dispatcher does. Everything runs once on SQLite and once on a PostgreSQL server that is started for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks._cli import ROOT, Options, main
from benchmarks.service_fakes import (
    Background,
    World,
    Writer,
    add_device,
    clocked,
    evaluated,
    live_batches,
    percentiles,
    run_search,
)
from nas.core.events import Progress, StageFinished, StageStarted, Warned, encode
from nas.core.spec import SearchSpec
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support.databases import postgres_missing, postgres_server, postgres_url

READY_S = 120.0  # for the server to start
FRONT_QUERIES: tuple[dict[str, str | float], ...] = (
    {},
    {"bound_ms": 0.12},
    {"objectives": "accuracy,params"},
    {"bound_ms": 0.1, "objectives": "accuracy,latency,macs"},
    {"objectives": "accuracy,latency,params,macs"},
)


@dataclass(frozen=True)
class Size:
    """How much load. One submit in ``repeat_each`` is sent twice, with one idempotency key."""

    searches: int = 1000
    clients: int = 16
    repeat_each: int = 10
    dispatchers: int = 4
    networks: int = 24  # of each drained search
    pages: int = 100  # GET /searches?limit=200
    jobs: int = 4  # that write events at once
    events: int = 20_000  # that they write in all
    candidates: int = 100_000
    fronts: int = 300  # GET /front, once in quiet and once while candidates arrive
    arriving_each_s: float = 1.0
    streams: int = 200
    streamed_jobs: int = 20
    streamed_events: int = 150  # of each


SMALL = Size(
    searches=12,
    clients=4,
    repeat_each=3,
    dispatchers=2,
    networks=8,
    pages=4,
    jobs=2,
    events=200,
    candidates=1000,
    fronts=10,
    arriving_each_s=0.05,
    streams=12,
    streamed_jobs=3,
    streamed_events=20,
)


def bench(options: Options) -> dict[str, Any]:
    """Both databases, one after the other."""
    if (missing := postgres_missing()) is not None:
        sys.exit(f"this benchmark needs a PostgreSQL server: {missing}")
    world = World.make()
    with _folder() as folder:
        sqlite = measure(Size(), f"sqlite:///{folder / 'hwnas.db'}", folder, world)
    with _folder() as folder, postgres_server(durable=True, connections=200) as server:
        postgresql = measure(Size(), postgres_url(server, "load"), folder, world)
    return {"sqlite": sqlite, "postgresql": postgresql}


def measure(size: Size, database: str, home: Path, world: World) -> dict[str, Any]:
    """Every figure for one database, which is empty at first."""
    settings = Settings(home=home, database_url=database, port=0, dispatch=False)
    with open_store(settings.database, settings.blobs) as store:
        add_device(store, world)
        with served(settings) as (url, pid):
            before_mb = _rss_mb(pid)
            parts: list[Mapping[str, Any]] = [
                submits(size, url),
                drains(size, settings, world),
                lists(size, url),
                ingests(size, settings, store, world),
                fronts(size, url, store, world),
                streams(size, url, store, world),
            ]
            figures = {name: value for part in parts for name, value in part.items()}
            doubled = figures.pop("submitted_doubled") + figures.pop("claimed_doubled")
            lost = figures.pop("submitted_lost") + figures.pop("claimed_lost")
            rss = {"rss_mb": _rss_mb(pid), "rss_peak_mb": _rss_mb(pid, "VmHWM"), "rss_before_mb": before_mb}
            return {"lost": lost, "doubled": doubled, **figures, **rss}


def submits(size: Size, url: str) -> dict[str, Any]:
    """Searches queued over HTTP by clients at once, some of them twice; ``lost`` and ``doubled`` by what is there."""
    work: queue.SimpleQueue[int] = queue.SimpleQueue()
    sent = [*range(size.searches), *range(0, size.searches, size.repeat_each)]
    for number in sorted(sent, key=lambda n: (n // (2 * size.clients), n % 7)):  # twins are on their way together
        work.put(number)
    answers: list[tuple[int, str]] = []
    seconds: list[float] = []

    def client() -> None:
        with httpx.Client(base_url=url, timeout=120.0) as http:
            while True:
                try:
                    number = work.get_nowait()
                except queue.Empty:
                    return
                body = SearchSpec(name=f"search {number}", seed=number).model_dump(mode="json")
                start_s = time.perf_counter()
                answer = http.post("/v1/searches", json=body, headers={"Idempotency-Key": f"key-{number}"})
                seconds.append(time.perf_counter() - start_s)
                answer.raise_for_status()
                answers.append((number, answer.json()["id"]))

    elapsed = clocked(lambda: _at_once(size.clients, client))
    ids = {number: {search for n, search in answers if n == number} for number in range(size.searches)}
    stored_names = Counter(s["spec"]["name"] for page in _pages(url) for s in page["items"])
    return {
        "submitted_lost": sum(stored_names[f"search {n}"] == 0 for n in ids),
        "submitted_doubled": sum(len(searches) - 1 for searches in ids.values())
        + sum(c - 1 for c in stored_names.values()),
        "submits_per_s": size.searches / elapsed,
        **percentiles("submit", seconds),
    }


def drains(size: Size, settings: Settings, world: World) -> dict[str, Any]:
    """Fake dispatchers, each with connections of its own, run the whole queue."""
    points = world.points(size.networks, seed=1)
    claimed: list[str] = []

    def dispatcher() -> None:
        with open_store(settings.database, settings.blobs) as store:
            name = f"fake-{threading.get_ident()}"
            while (writer := Writer.claim(store, name)) is not None:
                claimed.append(writer.lease.job_id)
                run_search(writer, world, points)

    elapsed = clocked(lambda: _at_once(size.dispatchers, dispatcher))
    times = Counter(claimed)
    return {
        "claimed_lost": size.searches - len(times),
        "claimed_doubled": sum(count - 1 for count in times.values()),
        "drained_per_s": len(claimed) / elapsed,
    }


def lists(size: Size, url: str) -> dict[str, Any]:
    """The list of all searches by pages of 200, again and again."""
    seconds: list[float] = []
    while len(seconds) < size.pages:
        seconds += [page["seconds"] for page in _pages(url)]
    cold = max(1, -(-size.searches // 200))
    return {"list_cold_ms": max(seconds[:cold]) * 1000.0, **percentiles("list", seconds[cold:] or seconds)}


def ingests(size: Size, settings: Settings, store: Store, world: World) -> dict[str, Any]:
    """Events per second, written by several jobs at once in batches such as a lively search makes."""
    events_per_job = size.events // size.jobs
    batches = [list(live_batches(world.points(events_per_job, seed=10 + i), events_per_job)) for i in range(size.jobs)]
    writers = _running(store, size.jobs, world)
    seconds: list[float] = []

    def write(writer: Writer, mine: Sequence[Sequence[Any]]) -> None:
        for batch in mine:
            seconds.append(clocked(partial(writer.append, batch)))

    elapsed = clocked(lambda: _all([partial(write, w, b) for w, b in zip(writers, batches, strict=True)]))
    for writer in writers:
        writer.finish()
    return {"events_per_s": sum(len(b) for mine in batches for b in mine) / elapsed, **percentiles("append", seconds)}


def fronts(size: Size, url: str, store: Store, world: World) -> dict[str, Any]:
    """The front of a search with many candidates: first in quiet, then while more of them arrive."""
    arriving = 50
    max_candidates = size.candidates + 60 * arriving
    points = world.points(max_candidates, seed=2)
    [writer] = _running(store, 1, world)

    def fill() -> None:
        for i in range(0, size.candidates, 250):
            writer.append([evaluated(points[i : i + 250]), encode(Progress("explore", i, size.candidates, "subnets"))])

    filled = clocked(fill)
    path = f"/v1/searches/{writer.lease.job_id}/front"
    lengths: list[int] = []
    later = iter(range(size.candidates, max_candidates, arriving))

    def arrive() -> None:
        if (start := next(later, None)) is not None:
            writer.append([evaluated(points[start : start + arriving])])

    with httpx.Client(base_url=url, timeout=120.0) as http:

        def ask(number: int) -> float:
            start_s = time.perf_counter()
            answer = http.get(path, params=FRONT_QUERIES[number % len(FRONT_QUERIES)])
            seconds = time.perf_counter() - start_s
            answer.raise_for_status()
            lengths.append(len(answer.json()["members"]))
            return seconds

        cold = ask(0)
        quiet = [ask(n) for n in range(size.fronts)]
        with Background(arrive, size.arriving_each_s):
            busy = []
            for n in range(size.fronts):
                busy.append(ask(n))
                time.sleep(0.03 * min(1.0, size.arriving_each_s))  # so that candidates arrive many times meanwhile
        candidates = [
            clocked(lambda: http.get(path.replace("front", "candidates")).raise_for_status()) for _ in range(10)
        ]
    writer.finish()
    return {
        "front_p99_ms": max(percentiles("front", s)["front_p99_ms"] for s in (quiet, busy)),
        "front_cold_ms": cold * 1000.0,
        **percentiles("front_quiet", quiet),
        **percentiles("front_arriving", busy),
        "front_points": max(lengths),
        **percentiles("candidates", candidates),
        "filled_networks_per_s": size.candidates / filled,
    }


def streams(size: Size, url: str, store: Store, world: World) -> dict[str, Any]:
    """Event streams at once, most open from the beginning, some late; each must bring every event, in order."""
    writers = _running(store, size.streamed_jobs, world)
    ids = [w.lease.job_id for w in writers]
    followed: list[str] = []

    async def follow_all() -> tuple[list[list[int]], list[float]]:
        late_s: list[float] = []
        opened = asyncio.Semaphore(32)
        half = asyncio.Event()
        begin = asyncio.Barrier(size.streams - size.streams // 10 + 1)
        tasks = []
        for i in range(size.streams):
            job = ids[i % len(ids)]
            followed.append(job)
            wait = half.wait if i < size.streams // 10 else None
            tasks.append(asyncio.create_task(_follow(url, job, opened, begin, wait, late_s)))
        await begin.wait()
        writing = asyncio.get_running_loop().run_in_executor(None, _write_streams, writers, size.streamed_events)
        await asyncio.sleep(0.5)
        half.set()
        results = await asyncio.gather(*tasks)
        await writing
        return results, late_s

    start_s = time.perf_counter()
    results, late_s = asyncio.run(follow_all())
    elapsed = time.perf_counter() - start_s
    expected = {job: list(range(1, store.queries.search(job).last_event + 1)) for job in ids}
    complete = sum(seqs == expected[job] for seqs, job in zip(results, followed, strict=True))
    return {
        "streams": size.streams,
        "streams_complete": complete,
        "streamed_events_per_s": sum(map(len, results)) / elapsed,
        **percentiles("stream_delay", late_s),
    }


def _write_streams(writers: Sequence[Writer], events: int) -> None:
    """Ten events a second and more of each job, in small batches, by a few threads."""

    def write(batch: Sequence[Writer]) -> None:
        for step in range(0, events, 5):
            for writer in batch:
                writer.events(
                    *[Warned("explore", f"event {step + i}") for i in range(4)], Progress("explore", step, events)
                )
        for writer in batch:
            writer.finish()

    _all([partial(write, writers[i::4]) for i in range(4)])


async def _follow(
    url: str,
    job: str,
    opened: asyncio.Semaphore,
    begin: asyncio.Barrier,
    wait: Callable[[], Any] | None,
    late_s: list[float],
) -> list[int]:
    """The numbers of the events of one stream, until it ends. One that has to ``wait`` first comes late."""
    if wait is not None:
        await wait()
    where = urlsplit(url)
    async with opened:
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=2**20)
        request = f"GET /v1/searches/{job}/events HTTP/1.1\r\nHost: {where.netloc}\r\nAccept: text/event-stream\r\n\r\n"
        writer.write(request.encode())
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"expected a stream, got {status!r}")
        while (await reader.readline()).strip():
            pass
    if wait is None:
        await begin.wait()
    seqs: list[int] = []
    while line := await reader.readline():
        if line.startswith(b"id:"):
            seqs.append(int(line[3:]))
        elif line.startswith(b"data:") and b'"at":' in line and wait is None:
            at = json.loads(line[5:])["at"]
            late_s.append(time.time() - _seconds(at))
        elif line.startswith(b"event: end"):
            break
    writer.close()
    return seqs


def _seconds(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()


def _running(store: Store, n: int, world: World) -> list[Writer]:
    """Fresh searches, claimed and exploring."""
    writers = []
    for i in range(n):
        spec = SearchSpec(name=f"running {i}")
        store.jobs.submit(spec, None, space_id=world.space.id)
        writer = Writer.claim(store, "fake")
        if writer is None:
            raise RuntimeError("expected a search in the queue, found none")
        result = {"reference": world.reference()}
        writer.events(StageStarted("estimate", 0, 5), StageFinished("estimate", 0.1, result))
        writer.events(StageStarted("explore", 2, 5))
        writers.append(writer)
    return writers


def _pages(url: str) -> Iterator[dict[str, Any]]:
    """The pages of the list of searches, each with the ``seconds`` that it took."""
    cursor: str | None = None
    with httpx.Client(base_url=url, timeout=120.0) as http:
        while True:
            start_s = time.perf_counter()
            answer = http.get("/v1/searches", params={"limit": 200, **({"cursor": cursor} if cursor else {})})
            seconds = time.perf_counter() - start_s
            answer.raise_for_status()
            page = answer.json()
            yield {**page, "seconds": seconds}
            cursor = page["next"]
            if cursor is None:
                return


def _at_once(n: int, act: Callable[[], None]) -> None:
    _all([act] * n)


def _all(acts: Sequence[Callable[[], None]]) -> None:
    """Runs all in threads; raises what the first of them raises."""
    with ThreadPoolExecutor(len(acts)) as pool:
        for future in [pool.submit(act) for act in acts]:
            future.result()


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[tuple[str, int]]:
    """Address and process id of a ``nas serve`` without a dispatcher, while the block lasts."""
    fields = {"home": settings.home, "database_url": settings.database, "port": 0, "dispatch": "false"}
    environment = {**os.environ, **{f"HWNAS_{k.upper()}": str(v) for k, v in fields.items()}, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve"],
        cwd=settings.home,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    results: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    lines: list[str] = []

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if (match := re.search(r"hwnas is ready: (http://\S+)", line)) is not None:
                results.put(match[1])
        results.put(None)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        url = results.get(timeout=READY_S)
        if url is None:
            raise RuntimeError(f"the server did not start:\n{''.join(lines)}")
        _await(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)
        listener.join()
        if errors := [line for line in lines if "Traceback" in line or " ERROR " in line]:
            sys.stderr.write("".join(lines[-60:]))
            raise RuntimeError(f"the server wrote {len(errors)} errors")


def _await(url: str) -> None:
    for _ in range(int(READY_S / 0.1)):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/v1/health", timeout=10.0)
            return
        time.sleep(0.1)
    raise RuntimeError(f"no answer from {url} within {READY_S:g} s")


def _rss_mb(pid: int, field: str = "VmRSS") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"{field}:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) / 1024.0


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hwnas-load-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main("service_load", bench, __doc__.split("\n")[0], ("fastapi", "sqlalchemy", "uvicorn", "psycopg", "numpy"))
