"""The operations guide names every setting and every figure there is."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.api.metrics import PrometheusMetrics
from server.api.sse import EventStreams
from server.settings import Settings
from server.store.store import open_store
from tests.support.paths import ROOT

GUIDE = (ROOT / "docs" / "operations.md").read_text()


def test_every_setting_is_explained() -> None:
    missing = [name for name in Settings.model_fields if f"`HWNAS_{name.upper()}`" not in GUIDE]
    assert missing == []


def test_every_metric_is_explained(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path)) as store:
        metrics = PrometheusMetrics(store, EventStreams(store.changes))
        metrics.requests.labels("GET", "/", "200").observe(0.1)
        text = generate_latest(metrics.registry).decode()
    names = {f.name + ("_total" if f.type == "counter" else "") for f in text_string_to_metric_families(text)}
    kinds = (name for name in names if not name.endswith("_created"))
    missing = [name for name in kinds if f"`{name}" not in GUIDE]
    assert missing == []
