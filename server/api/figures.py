"""Figures for Prometheus: what this process counts itself, and what the database knows."""

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
from nas.core.lifecycle import STATUSES
from nas.core.ports import JobKind
from server.api.sse import Streams
from server.probes import Probe, ask_all
from server.store.queries import Figures as Sums
from server.store.store import Store

FRESH_S = 1.0  # the database is asked no more often than this
ANSWER_S = 5.0  # and given up on after this; Prometheus usually waits for 10 seconds
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Figures:
    """The figures of one app, in a registry of its own. ``clock`` gives seconds, monotonic."""

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
        self.registry.register(_FromStore(store, streams, clock))
        ProcessCollector(registry=self.registry)  # nothing where there is no /proc

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)


class Timed:
    """Times every request, by the template of its route: raw paths and methods would be without number."""

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
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = self._figures.clock() - begun
            self._figures.requests.labels(method, route_of(scope), str(status)).observe(seconds)
            if status in (401, 403):
                self._figures.refused.labels(str(status)).inc()


def route_of(scope: Scope) -> str:
    """The template of the route that took a request, such as ``/v1/searches/{id}``; ``other`` where none did."""
    route: str = getattr(scope.get("route"), "path", None) or "other"
    below = scope["path"].startswith("/v1/") and route.startswith("/") and not route.startswith("/v1/")
    return f"/v1{route}" if below else route


class Rising:
    """A counter over a sum that falls when searches are deleted: it counts what was added. Prometheus would take a fall
    for a restart and count everything twice."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        self._counted: dict[str, float] = {}

    def __call__(self, name: str, value: float) -> float:
        """What was counted under ``name`` up to now, when the sum is ``value``."""
        added = max(0.0, value - self._before.get(name, 0.0))
        self._before[name] = value
        self._counted[name] = self._counted.get(name, 0.0) + added
        return self._counted[name]


class _FromStore(Collector):
    """What the database knows, asked when Prometheus asks, and what it says of itself."""

    def __init__(self, store: Store, streams: Streams, clock: Callable[[], float]) -> None:
        self._streams = streams
        self._clock = clock
        self._probe = Probe("figures", store.queries.figures)
        self._rising = Rising()
        self._lock = threading.Lock()
        self._sums: Sums | None = None
        self._asked_at = float("-inf")

    def describe(self) -> Iterator[Metric]:
        """Nothing: a registry that is told asks for no figures when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All figures; Prometheus's own conventions name them."""
        with self._lock:
            yield from self._collect()

    def _collect(self) -> Iterator[Metric]:
        yield _gauge("hwnas_build_info", "The version that runs", ["version"], {(version("hwnas"),): 1})
        yield _gauge("hwnas_streams", "Event streams that are open", [], {(): self._streams.open})
        sums = self._fresh()
        yield _gauge(
            "hwnas_database_up",
            "Whether the database answers; if not, the rest is left out",
            [],
            {(): sums is not None},
        )
        if sums is None:
            return
        yield _gauge("hwnas_jobs", "Jobs by kind and status", ["kind", "status"], _all_statuses(sums.jobs))
        for name, about, value in (
            ("hwnas_oldest_queued_seconds", "How long the oldest queued job waits", sums.oldest_queued_s),
            ("hwnas_leases", "Jobs that a worker holds", sums.leases),
            ("hwnas_oldest_lease_seconds", "Since the lease that is longest without renewal", sums.oldest_lease_s),
            ("hwnas_event_lag_seconds", "Since the newest event of any running job", sums.event_lag_s),
            (
                "hwnas_longest_silence_seconds",
                "Since the last event of the running job that is silent longest",
                sums.silence_s,
            ),
            ("hwnas_workers", "Dispatchers seen within a minute", sums.workers),
            ("hwnas_worker_slots", "Jobs that they run at a time", sums.slots),
        ):
            yield _gauge(name, about, [], {(): value})
        yield _gauge("hwnas_agents", "Device agents that have ever registered", [], {(): len(sums.agents)})
        yield _gauge(
            "hwnas_agents_live",
            "Device agents heard of within a minute",
            [],
            {(): sum(agent.live for agent in sums.agents.values())},
        )
        yield _gauge(
            "hwnas_agent_age_seconds",
            "Since an agent was last heard of",
            ["device"],
            {(name,): agent.age_s for name, agent in sums.agents.items()},
        )
        yield _gauge(
            "hwnas_agent_measurements",
            "Networks that an agent is to measure, measures, or has measured for jobs that are still there",
            ["device", "status"],
            {
                (name, status): count
                for name, agent in sums.agents.items()
                for status, count in {"queued": agent.queued, "leased": agent.leased, **agent.ended}.items()
            },
        )
        for name, about, value in (
            ("hwnas_events", "Events in the logs of jobs", sums.events),
            ("hwnas_evaluations", "Networks evaluated by searches", sums.evaluations),
            ("hwnas_busy_seconds", "Time that workers held jobs", sums.busy_s),
            ("hwnas_gpu_seconds", "The same times the GPUs they held", sums.gpu_s),
        ):
            family = CounterMetricFamily(name, about)
            family.add_metric([], self._rising(name, value))
            yield family

    def _fresh(self) -> Sums | None:
        if self._clock() - self._asked_at >= FRESH_S:
            found = ask_all({"figures": self._probe}, ANSWER_S)["figures"]
            self._sums = None if isinstance(found, HwnasError) else found
            self._asked_at = self._clock()
        return self._sums


def _all_statuses(jobs: Mapping[tuple[str, str], int]) -> dict[tuple[str, ...], float]:
    return {(kind, status): jobs.get((kind, status), 0) for kind in get_args(JobKind) for status in STATUSES}


def _gauge(name: str, about: str, labels: list[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
