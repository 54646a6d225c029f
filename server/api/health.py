"""Is it alive, is it ready, and how does it do: for load balancers, supervisors and Prometheus. No token is asked of
the first two; the figures are for administrators."""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.core.errors import HwnasError
from nas.core.lifecycle import STATUSES
from nas.core.views import CheckView, ReadyView
from server.api.access import Guard
from server.api.sse import Streams
from server.settings import Settings
from server.store.store import Store

CHECK_S = 3.0  # a check that takes longer has failed
LEAST_FREE = 0.02  # of the disk that the home folder is on


def routes(settings: Settings, store: Store, streams: Streams, guard: Guard, figures: Figures) -> APIRouter:
    """The routes outside of ``/v1``."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", summary="Is the process alive?")
    def healthz() -> dict[str, str]:
        """Answers without a look at anything else."""
        return {"status": "ok"}

    @router.get("/readyz", summary="Can it serve?", response_model=ReadyView, responses={503: {"model": ReadyView}})
    def readyz() -> Any:
        """Database, schema, storage, disk and dispatcher; 503 when one of the first four fails."""
        view = ready(settings, store)
        return JSONResponse(view.model_dump(), 200 if view.ready else 503)

    @router.get("/metrics", summary="Figures for Prometheus", response_class=Response, include_in_schema=False)
    def metrics(request: Request) -> Response:
        """Text in Prometheus's format, for administrators."""
        guard.principal(request).require("admin")
        return Response(generate_latest(figures.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def ready(settings: Settings, store: Store) -> ReadyView:
    """Looks at everything that serving needs, each for ``CHECK_S`` at most, so that nothing that hangs hangs this."""
    checks: dict[str, Callable[[], tuple[str, bool]]] = {
        "database": lambda: (store.queries.database, store.queries.counts(1.0) is not None),
        "schema": lambda: (f"revision {store.queries.revision()}", store.queries.revision() == store.queries.newest),
        "storage": lambda: ("written and read", store.blobs.get(store.blobs.put(b"ready?")) == b"ready?"),
        "disk": lambda: _disk(settings.home),
    }
    pool = ThreadPoolExecutor(len(checks) + 1, thread_name_prefix="ready")
    asked = {name: pool.submit(check) for name, check in checks.items()}
    workers = pool.submit(lambda: store.queries.counts(2 * settings.lease_seconds)[0])
    views = [_view(name, future) for name, future in asked.items()]
    failed = any(view.status == "failed" for view in views)
    dispatcher = _view("dispatcher", workers, lambda n: (f"{n} connected", n > 0))
    if dispatcher.status == "failed":  # requests are served all the same; searches wait
        dispatcher = dispatcher.model_copy(update={"status": "warning"})
    pool.shutdown(wait=False, cancel_futures=True)
    return ReadyView(ready=not failed, checks=[*views, dispatcher])


def _view(name: str, asked: Future[Any], read: Callable[[Any], tuple[str, bool]] = lambda found: found) -> CheckView:
    try:
        detail, good = read(asked.result(CHECK_S))
    except Late:
        return CheckView(name=name, status="failed", detail=f"no answer within {CHECK_S:g} s")
    except HwnasError as error:
        return CheckView(name=name, status="failed", detail=str(error))
    return CheckView(name=name, status="ok" if good else "failed", detail=detail)


def _disk(home: Path) -> tuple[str, bool]:
    usage = shutil.disk_usage(home)
    return f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free", usage.free > LEAST_FREE * usage.total


class Figures:
    """The figures of one app, in a registry of its own."""

    def __init__(self, store: Store, streams: Streams, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.clock = clock
        self.requests = Histogram(
            "hwnas_http_request_seconds",
            "Time to answer a request; for a stream, to its end",
            ["method", "route", "status"],
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
        )
        self.refused = Counter(
            "hwnas_refused_total", "Requests that were refused for who asked", ["code"], registry=self.registry
        )
        self.registry.register(_FromStore(store, streams))


class Timed:
    """Times every request, by the template of its route: raw paths would be without number."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on; counts what was refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = self._figures.clock()
        status = 500

        async def heard(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, heard)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            labels = (scope["method"] if route != "other" else "any", route, str(status))
            self._figures.requests.labels(*labels).observe(self._figures.clock() - begun)
            if status in (401, 403):
                self._figures.refused.labels(str(status)).inc()


class _FromStore(Collector):
    """What the database knows, asked when Prometheus asks."""

    def __init__(self, store: Store, streams: Streams) -> None:
        self._store = store
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        """All figures; Prometheus's own conventions name them."""
        f = self._store.queries.figures()
        yield _gauge("hwnas_jobs", "Jobs by kind and status", ["kind", "status"], _all_statuses(f.jobs))
        yield _gauge("hwnas_oldest_queued_seconds", "How long the oldest queued job waits", [], {(): f.oldest_queued_s})
        yield _gauge("hwnas_leases", "Jobs that a worker holds", [], {(): f.leases})
        yield _gauge(
            "hwnas_oldest_lease_seconds", "Since the lease that is longest without renewal", [], {(): f.oldest_lease_s}
        )
        yield _gauge("hwnas_event_lag_seconds", "Since the newest event of a running job", [], {(): f.event_lag_s})
        yield _gauge("hwnas_workers", "Dispatchers seen within a minute", [], {(): f.workers})
        yield _gauge("hwnas_worker_slots", "Jobs that they run at a time", [], {(): f.slots})
        yield _gauge("hwnas_streams", "Event streams that are open", [], {(): self._streams.open})
        yield _counter("hwnas_events", "Events in the logs of all jobs that are kept", f.events)
        yield _counter("hwnas_evaluations", "Networks evaluated by all searches that are kept", f.evaluations)
        yield _counter("hwnas_busy_seconds", "Time that workers held jobs", f.busy_s)
        yield _counter("hwnas_gpu_seconds", "The same times the GPUs they held", f.gpu_s)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        yield _gauge("hwnas_peak_resident_bytes", "Most memory that this process has had", [], {(): rss})


def _all_statuses(jobs: Mapping[tuple[str, str], int]) -> dict[tuple[str, ...], float]:
    return {(kind, status): jobs.get((kind, status), 0) for kind in ("search", "device") for status in STATUSES}


def _gauge(name: str, about: str, labels: list[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    family = CounterMetricFamily(name, about)
    family.add_metric([], value)
    return family
