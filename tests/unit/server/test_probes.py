"""Checks that hang, fail or answer: nobody waits for them longer than was said."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nas.core.errors import StorageError
from server.api.metrics import CACHE_S, PrometheusMetrics
from server.api.sse import EventStreams
from server.probes import Probe, ask_all
from server.store.store import open_store
from tests.support import fakes


def test_hanging_check_uses_one_thread() -> None:
    release, calls = threading.Event(), []

    def hang() -> str:
        calls.append(1)
        release.wait(10)
        return "late"

    probes = {"slow": Probe("slow", hang), "fast": Probe("fast", lambda: "here")}
    first, second = ask_all(probes, 0.05), ask_all(probes, 0.05)
    assert first["fast"] == second["fast"] == "here"
    for answers in (first, second):
        assert isinstance(answers["slow"], StorageError)
        assert "0.05 s" in str(answers["slow"])
    assert len(calls) == 1
    release.set()
    assert ask_all({"slow": probes["slow"]}, 5.0) == {"slow": "late"}


def test_check_errors_are_returned() -> None:
    def full() -> str:
        raise OSError(28, "No space left on device")

    def broken() -> str:
        raise KeyError("x")

    answers = ask_all({"full": Probe("full", full), "broken": Probe("broken", broken)}, 5.0)
    assert str(answers["full"]) == "No space left on device"
    assert str(answers["broken"]) == "KeyError: 'x'"


def test_metrics_report_a_lost_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = fakes.Clock()
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path), clock) as store:
        read_stats = store.queries.service_stats
        away = threading.Event()

        def figures_or_not() -> object:
            if away.is_set():
                raise StorageError("the database does not answer")
            return read_stats()

        monkeypatch.setattr(store.queries, "service_stats", figures_or_not)
        metrics = PrometheusMetrics(store, EventStreams(store.changes), clock)
        assert (value(metrics, "hwnas_database_up"), value(metrics, "hwnas_leases")) == (1, 0)
        away.set()
        assert value(metrics, "hwnas_database_up") == 1  # asked a moment ago
        clock.pass_(CACHE_S)
        assert (value(metrics, "hwnas_database_up"), value(metrics, "hwnas_leases")) == (0, None)


def value(metrics: PrometheusMetrics, name: str) -> float | None:
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name:
                return sample.value
    return None
