"""Prometheus metrics: requests counted in this process, and statistics read from the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.core.errors import HwnasError
from nas.core.jobs import JobKind
from nas.core.lifecycle import STATUSES
from server.api.sse import EventStreams
from server.probes import Probe, ask_all
from server.store.readers.service import ServiceStats
from server.store.store import Store

CACHE_S = 1.0  # the database is read at most this often
TIMEOUT_S = 5.0  # of that read; Prometheus usually times out after 10 seconds
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class PrometheusMetrics:
    """The metrics of one app, in a registry of their own. ``clock`` gives monotonic seconds."""

    def __init__(self, store: Store, streams: EventStreams, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self.clock = clock
        self.requests = Histogram(
            "hwnas_http_request_seconds",
            "Duration of a request; of an event stream, until its end",
            ["method", "route", "status"],
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
        )
        self.refused = Counter(
            "hwnas_refused_total", "Requests refused with 401 or 403", ["code"], registry=self.registry
        )
        self.registry.register(_StoreCollector(store, streams, clock))
        ProcessCollector(registry=self.registry)  # empty where there is no /proc

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class RequestMetricsMiddleware:
    """Observes the duration of every request, labelled with its route's template: raw paths are unbounded."""

    def __init__(self, app: ASGIApp, metrics: PrometheusMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, observe its duration and count refusals."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = self._metrics.clock()
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = self._metrics.clock() - started_at
            self._metrics.requests.labels(method, route_of(scope), str(status)).observe(seconds)
            if status in (401, 403):
                self._metrics.refused.labels(str(status)).inc()


def route_of(scope: Scope) -> str:
    """The template of the route that handled a request, such as ``/v1/searches/{id}``; ``other`` if none did."""
    route: str = getattr(scope.get("route"), "path", None) or "other"
    below = scope["path"].startswith("/v1/") and route.startswith("/") and not route.startswith("/v1/")
    return f"/v1{route}" if below else route


class _StoreCollector(Collector):
    """Statistics of the database and of this process, read when Prometheus scrapes."""

    def __init__(self, store: Store, streams: EventStreams, clock: Callable[[], float]) -> None:
        self._streams = streams
        self._clock = clock
        self._probe = Probe("service statistics", store.queries.service_stats)
        self._lock = threading.Lock()
        self._stats: ServiceStats | None = None
        self._read_at = float("-inf")

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering this collector does not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics, named by Prometheus's conventions."""
        with self._lock:
            yield from self._collect()

    def _collect(self) -> Iterator[Metric]:
        yield _gauge("hwnas_build_info", "The version that runs", ["version"], {(version("hwnas"),): 1})
        yield _gauge("hwnas_streams", "Event streams that are open", [], {(): self._streams.open})
        stats = self._current_stats()
        yield _gauge(
            "hwnas_database_up",
            "Whether the database answers; if not, its metrics are absent",
            [],
            {(): stats is not None},
        )
        if stats is None:
            return
        yield _gauge("hwnas_jobs", "Jobs by kind and status", ["kind", "status"], _all_statuses(stats.jobs))
        for name, about, value in (
            ("hwnas_oldest_queued_seconds", "How long the oldest queued job has waited", stats.oldest_queued_s),
            ("hwnas_leases", "Jobs that a worker holds", stats.leases),
            ("hwnas_oldest_lease_seconds", "Since the renewal of the lease renewed longest ago", stats.oldest_lease_s),
            ("hwnas_event_lag_seconds", "Since the newest event of any running job", stats.event_lag_s),
            (
                "hwnas_longest_silence_seconds",
                "Since the last event of the running job that has been silent longest",
                stats.silence_s,
            ),
            ("hwnas_workers", "Dispatchers seen within a minute", stats.workers),
            ("hwnas_worker_slots", "Jobs that they run at a time", stats.slots),
        ):
            yield _gauge(name, about, [], {(): value})
        yield _gauge("hwnas_agents", "Device agents that have ever registered", [], {(): len(stats.agents)})
        yield _gauge(
            "hwnas_agents_live",
            "Device agents heard of within a minute",
            [],
            {(): sum(agent.live for agent in stats.agents.values())},
        )
        yield _gauge(
            "hwnas_agent_age_seconds",
            "Since an agent was last heard of",
            ["device"],
            {(name,): agent.age_s for name, agent in stats.agents.items()},
        )
        yield _gauge(
            "hwnas_agent_measurements",
            "Networks queued, being measured or measured by an agent, for jobs that still exist",
            ["device", "status"],
            {
                (name, status): count
                for name, agent in stats.agents.items()
                for status, count in {"queued": agent.queued, "leased": agent.leased, **agent.ended}.items()
            },
        )
        for name, about, value in (
            ("hwnas_events", "Events written to the logs of jobs", stats.usage.events),
            ("hwnas_evaluations", "Networks evaluated by searches", stats.usage.evaluations),
            ("hwnas_busy_seconds", "Time that workers spent on jobs", stats.usage.busy_seconds),
            ("hwnas_gpu_seconds", "The same, multiplied by the GPUs in use", stats.usage.gpu_seconds),
        ):
            yield CounterMetricFamily(name, about, value=value)

    def _current_stats(self) -> ServiceStats | None:
        if self._clock() - self._read_at >= CACHE_S:
            answer = ask_all({"stats": self._probe}, TIMEOUT_S)["stats"]
            self._stats = None if isinstance(answer, HwnasError) else answer
            self._read_at = self._clock()
        return self._stats


def _all_statuses(jobs: Mapping[tuple[str, str], int]) -> dict[tuple[str, ...], float]:
    return {(kind, status): jobs.get((kind, status), 0) for kind in get_args(JobKind) for status in STATUSES}


def _gauge(name: str, about: str, labels: list[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
