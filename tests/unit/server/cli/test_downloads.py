"""Which network ``best`` and ``fastest`` are, also where nothing was measured or not all of the front was exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from nas.client import Client
from nas.core.errors import NotFound
from nas.core.metrics import METRICS
from nas.schemas.candidates import ArtifactSchema, CandidateSchema, FrontSchema, MetricSchema, ObjectiveSchema
from server.cli.downloads import choose_artifacts
from server.dashboard.front_text import dominated_members, membership_note


def front(latency: str, members: Sequence[tuple[str, float, float]]) -> FrontSchema:
    def objective(name: str, metric: str) -> ObjectiveSchema:
        info = METRICS[metric]
        decided_by = "val_accuracy" if metric == "test_accuracy" else None
        axis: dict[str, Any] = {"objective": name, "metric": metric, "label": info.label, "unit": info.unit}
        return ObjectiveSchema(**axis, kind=info.kind, goal=info.goal, decided_by=decided_by)

    def candidate(arch: str, accuracy: float, ms: float) -> CandidateSchema:
        values = {"test_accuracy": accuracy, latency: ms}
        metrics = {n: MetricSchema(value=v, unit=METRICS[n].unit, kind=METRICS[n].kind) for n, v in values.items()}
        return CandidateSchema(arch=arch, origin="search", genes=[], metrics=metrics, status="unverified")

    return FrontSchema(
        search="s",
        final=True,
        objectives=[objective("accuracy", "test_accuracy"), objective("latency", latency)],
        members=[candidate(*member) for member in members],
        baseline=[],
        hypervolume=None,
        baseline_hypervolume=None,
        reference=[],
    )


class Exports:
    """A client that knows one front and the archives of some of its networks."""

    def __init__(self, shown: FrontSchema, exported: Sequence[str]) -> None:
        self._front, self._exported = shown, exported

    def front(self, search_id: str) -> FrontSchema:
        return self._front

    def artifacts(self, search_id: str) -> list[ArtifactSchema]:
        file: dict[str, Any] = {"size_bytes": 1, "sha256": "0", "media_type": "application/zip", "url": ""}
        return [ArtifactSchema(arch=arch, name=f"{arch}.zip", **file) for arch in self._exported]


MEMBERS = (("a", 98.0, 0.3), ("b", 97.0, 0.2), ("c", 91.0, 0.1))


def chosen(selection: str, latency: str = "measured_ms", exported: Sequence[str] = "abc") -> tuple[list[str], str]:
    client = cast(Client, Exports(front(latency, MEMBERS), exported))
    downloads = choose_artifacts(client, "s", selection)
    return [a.arch for a in downloads.artifacts], downloads.note


@pytest.mark.parametrize("latency", ["measured_ms", "predicted_ms", "predicted_share"])
def test_ends_of_the_front(latency: str) -> None:
    assert chosen("fastest", latency) == (["c"], "")
    assert chosen("best", latency) == (["a"], "")


def test_a_better_network_that_was_not_exported_is_named() -> None:
    archs, note = chosen("fastest", exported="ab")
    assert archs == ["b"]
    assert note == (
        "c is fastest on the front with 0.1 ms, and was not exported, since export.count limits it; b with 0.2 ms is "
        "downloaded"
    )
    with pytest.raises(NotFound, match="no front member"):
        chosen("best", exported="z")


def test_dominated_members_are_counted_and_explained() -> None:
    dominated = front("measured_ms", (("a", 90.0, 0.3), ("b", 97.0, 0.2), ("c", 91.0, 0.1)))
    assert dominated_members(dominated) == 1
    note = membership_note(dominated)
    assert "chosen by validation accuracy" in note
    assert "1 of 3 members are dominated" in note
    assert dominated_members(front("measured_ms", MEMBERS)) == 0
