"""Fronts and importances in a notebook."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nas.core.arch import Decision
from nas.core.decision_importance import ImportanceReport, importance_of
from nas.core.errors import InvalidInput
from nas.plots import plot_front, plot_importance
from nas.schemas.candidates import CandidateSchema, FrontSchema, MetricSchema, ObjectiveSchema

matplotlib = pytest.importorskip("matplotlib")
DECISIONS = (Decision("kernel", (3, 5, 7)), Decision("<width>", (1, 2)), Decision("depth", (1, 2, 3, 4)))


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    from matplotlib import pyplot

    with matplotlib.rc_context({"backend": "agg"}):
        yield
        pyplot.close("all")


def candidate(arch: str, accuracy: float, latency_ms: float, **fields: object) -> CandidateSchema:
    metrics = {
        "test_accuracy": MetricSchema(value=accuracy, unit="%", kind="measured"),
        "measured_ms": MetricSchema(value=latency_ms, unit="ms", kind="measured"),
    }
    record = {"origin": "search", "genes": [0], "status": "verified", **fields}
    return CandidateSchema(arch=arch, metrics=metrics, **record)


@pytest.fixture
def front() -> FrontSchema:
    def axis(objective: str, metric: str, label: str, unit: str, goal: str, bound: float | None) -> ObjectiveSchema:
        record = {"objective": objective, "metric": metric, "label": label, "unit": unit, "goal": goal, "bound": bound}
        return ObjectiveSchema.model_validate({**record, "kind": "measured"})

    return FrontSchema(
        search="<5ea4c1>",
        final=True,
        objectives=[
            axis("accuracy", "test_accuracy", "Test accuracy", "%", "max", None),
            axis("latency", "measured_ms", "Measured latency", "ms", "min", 0.5),
        ],
        members=[candidate("a1", 97.0, 0.4), candidate("a2", 91.0, 0.1)],
        baseline=[candidate("b1", 90.0, 0.3, origin="baseline")],
        references=[candidate("r1", 95.0, 0.9, origin="reference", name="parent")],
        hypervolume=0.9,
        baseline_hypervolume=0.8,
        reference=[0.0, 1.0],
    )


def test_a_front_is_a_table_of_rows_and_of_html(front: FrontSchema) -> None:
    pytest.importorskip("pandas")
    frame = front.to_pandas()
    assert list(frame["arch"]) == ["a1", "a2", "b1", "r1"]
    assert list(frame["measured_ms"]) == [0.4, 0.1, 0.3, 0.9]
    assert frame["name"][3] == "parent"
    page = front._repr_html_()
    assert page.count("<tr>") == 3
    assert "&lt;5ea4c1&gt;" in page


def test_a_front_is_drawn_with_references_and_bounds(front: FrontSchema) -> None:
    ax = plot_front(front)
    assert ax.get_xlabel() == "Measured latency (ms, measured)"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Search", "Random search", "References"]
    assert plot_front(front, ax=ax) is ax


def planted() -> ImportanceReport:
    rng = np.random.default_rng(0)
    genes_NG = np.stack([rng.integers(0, len(d.choices), 300) for d in DECISIONS], axis=1)
    value_N = 90.0 + 3.0 * genes_NG[:, 0] + 0.5 * genes_NG[:, 2] + rng.normal(0, 0.1, 300)
    return importance_of("val_accuracy", DECISIONS, genes_NG, value_N)


def test_planted_importances_are_recovered_and_drawn() -> None:
    report = planted()
    assert [d.decision for d in report.decisions] == ["kernel", "depth", "<width>"]
    assert sum(d.importance for d in report.decisions) == pytest.approx(1.0)
    assert report.decisions[0].importance > 0.85
    assert report.decisions[-1].importance < 0.02
    assert report.explained > 0.95
    low, middle, high = report.decisions[0].means
    assert low is not None
    assert middle is not None
    assert high is not None
    assert (middle - low, high - middle) == (pytest.approx(3.0, abs=0.3), pytest.approx(3.0, abs=0.3))
    bars = plot_importance(report).patches
    assert max(bar.get_width() for bar in bars) == report.decisions[0].importance


def test_noise_is_not_called_explained_and_constants_are_refused() -> None:
    rng = np.random.default_rng(1)
    genes_NG = np.stack([rng.integers(0, len(d.choices), 300) for d in DECISIONS], axis=1)
    assert importance_of("macs", DECISIONS, genes_NG, rng.normal(size=300)).explained < 0.1
    with pytest.raises(InvalidInput, match="the same for all"):
        importance_of("macs", DECISIONS, genes_NG, np.ones(300))
    with pytest.raises(InvalidInput, match="expected at least 24"):
        importance_of("macs", DECISIONS, genes_NG[:23], rng.normal(size=23))
