"""The tooltip of a candidate, which JavaScript composes, says what Python would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema, MetricSchema
from server.dashboard import formatting
from server.dashboard.charts.axes import metric_kinds
from server.dashboard.charts.candidate_tooltip import candidate_datum, candidate_tooltip
from tests.support.browsing import MARKS

pytestmark = MARKS
SIZES = (0.0, 0.00123456, 0.0996, 0.9996, 1.0, 12.345678, 99.96, 999.4, 999.6, 1234.4, 999_999.0, 3.21e6, 4e9, 7.7e12)


def candidate(values: Mapping[str, float], arch: str = "a1", name: str | None = None) -> CandidateSchema:
    metrics = {n: MetricSchema(value=v, unit=METRICS[n].unit, kind=METRICS[n].kind) for n, v in values.items()}
    return CandidateSchema(arch=arch, origin="search", name=name, genes=[], metrics=metrics, status="verified")


def composed(page: Any, candidates: list[CandidateSchema], xm: str, ym: str) -> list[str]:
    """What the browser makes of them."""
    formatter = candidate_tooltip(metric_kinds(candidates), xm, ym)[":formatter"]
    points = [candidate_datum(c, xm, ym) for c in candidates]
    return list(page.evaluate(f"points => points.map(data => ({formatter})({{data}}))", points))


@pytest.mark.parametrize("metric", ["predicted_ms", "val_accuracy", "params", "peak_bytes"])
def test_numbers_are_written_as_everywhere(page: Any, metric: str) -> None:
    candidates = [candidate({metric: value}) for value in SIZES]
    label = f"{formatting.label(metric)} <i>{METRICS[metric].kind}</i>"
    for c, html in zip(candidates, composed(page, candidates, metric, metric), strict=True):
        assert f"<tr><td>{label}</td><td>{formatting.metric(c.metrics, metric)}</td></tr>" in html


def test_the_metrics_of_the_axes_come_first_and_losses_are_left_out(page: Any) -> None:
    values = {"params": 1e6, "val_accuracy": 97.5, "test_accuracy": 97.0, "val_loss": 0.1, "measured_ms": 0.25}
    [html] = composed(page, [candidate(values)], "measured_ms", "test_accuracy")
    expected_names = ("test_accuracy", "measured_ms", "params", "val_accuracy")
    assert [html.index(formatting.label(name)) for name in expected_names] == sorted(
        html.index(formatting.label(name)) for name in expected_names
    )
    assert html.count("<tr>") == len(expected_names)


def test_a_candidate_says_only_what_is_known_of_it(page: Any) -> None:
    known, other = candidate({"params": 1e6}), candidate({"params": 1e6, "measured_ms": 0.25})
    first, second = composed(page, [known, other], "params", "params")
    assert "Measured latency" not in first
    assert "Measured latency" in second


def test_names_from_outside_are_escaped(page: Any) -> None:
    point = candidate({"params": 1e6}, arch="<img src=x>", name="a & 'b'")
    [html] = composed(page, [point], "params", "params")
    title = page.evaluate(
        "html => new DOMParser().parseFromString(html, 'text/html').querySelector('b').innerText", html
    )
    assert title == "<img src=x> · a & 'b' · verified"
    assert "<img" not in html
