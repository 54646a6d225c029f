"""What is computed to compare searches, and when their stages ran: pure functions of what REST says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from nas.client import Client
from nas.core.events import StageFinished, StageStarted, StatusChanged, encode
from nas.core.lifecycle import JobStatus
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec
from nas.schemas.jobs import EventSchema
from server.api.app import create_app
from server.dashboard.charts.overlay import overlaid_fronts, overlaid_hypervolumes
from server.dashboard.charts.parallel import parallel_chart, parallel_metrics
from server.dashboard.compare.common_volume import common_metrics, search_costs
from server.dashboard.compare.spec_differences import spec_differences
from server.dashboard.search.timeline import TimelineBar, rows_of, timeline_bars
from server.settings import Settings
from tests.support.seeded_dashboard import FINISHED, THREE, Seeds, seeded_store

START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeds]:
    with seeded_store(tmp_path_factory.mktemp("seeded")) as seeded:
        yield seeded


@pytest.fixture
def nas(seeds: Seeds, tmp_path: Path) -> Iterator[Client]:
    app = create_app(Settings(home=tmp_path), seeds.store)
    with TestClient(app, "http://127.0.0.1:8765") as service, Client(transport=service._transport) as client:
        yield client


def test_only_keys_that_differ_are_told_objectives_by_name() -> None:
    first = SearchSpec(name="a", budget=BudgetSpec(evaluations=40))
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=0.2))
    second = SearchSpec(name="b", seed=1, objectives=objectives)
    assert dict(spec_differences([first, second, second])) == {
        "budget.evaluations": ["40", "160", "160"],
        "objectives.latency.bound": ["–", "0.2", "0.2"],
        "seed": ["0", "1", "1"],
    }
    assert spec_differences([first, first.model_copy(update={"name": "other"})]) == []


def test_hypervolumes_share_one_box_and_a_smaller_front_has_less(nas: Client, seeds: Seeds) -> None:
    search, front = nas.search(seeds.ids[FINISHED]), nas.front(seeds.ids[FINISHED])
    fewer = front.model_copy(update={"members": front.members[::4]})
    whole, part, empty = search_costs([search] * 3, [front, fewer, front.model_copy(update={"members": []})])
    assert whole.volume is not None
    assert part.volume is not None
    assert 0.0 == empty.volume < part.volume < whole.volume < 1.0
    assert whole.volume_per_hour == pytest.approx(whole.volume / (search.busy_seconds / 3600))
    three = nas.front(seeds.ids[THREE])
    assert common_metrics([three, front]) == ("test_accuracy", "measured_ms")
    assert all(cost.volume is not None for cost in search_costs([search, search], [front, three]))
    other = front.model_copy(update={"objectives": [three.objectives[0], three.objectives[2]]})
    assert common_metrics([front, other]) is None
    assert [cost.volume for cost in search_costs([search, search], [front, other])] == [None, None]


def test_overlaid_charts_have_a_line_for_each_search(nas: Client, seeds: Seeds) -> None:
    search, front = nas.search(seeds.ids[FINISHED]), nas.front(seeds.ids[FINISHED])
    fronts = overlaid_fronts([search, search], [front, front])["series"]
    assert len(fronts) == 2
    assert fronts[0]["data"]
    assert {datum["arch"] for datum in fronts[0]["data"]} <= {c.arch for c in front.members}
    assert fronts[0]["lineStyle"] != fronts[1]["lineStyle"]
    assert fronts[0]["symbol"] != fronts[1]["symbol"]
    volumes = overlaid_hypervolumes([search, search])["series"]
    assert [len(line["data"]) for line in volumes] == [len(search.hypervolume_history)] * 2


def test_fronts_of_several_precisions_have_theirs_in_the_legend(nas: Client, seeds: Seeds) -> None:
    search, front = nas.search(seeds.ids[FINISHED]), nas.front(seeds.ids[FINISHED])
    in_int8 = search.model_copy(update={"spec": search.spec.model_copy(update={"precision": "int8"})})
    assert [line["name"] for line in overlaid_fronts([search, search], [front, front])["series"]] == [search.name] * 2
    for chart in (overlaid_fronts([search, in_int8], [front, front]), overlaid_hypervolumes([search, in_int8])):
        assert [line["name"] for line in chart["series"]] == [f"{search.name} (float32)", f"{search.name} (int8)"]
    assert (
        f"{search.name} (int8): " in overlaid_fronts([search, in_int8], [front, front])["series"][1]["data"][0]["tip"]
    )


def test_parallel_coordinates_have_the_better_end_up(nas: Client, seeds: Seeds) -> None:
    candidates = nas.candidates(seeds.ids[FINISHED], limit=1000).items
    metrics = parallel_metrics(candidates)
    assert {"val_accuracy", "predicted_ms", "params"} <= set(metrics)
    assert "test_accuracy" not in metrics  # few have been tested
    chart = parallel_chart(candidates, metrics)
    assert sum(len(lines["data"]) for lines in chart["series"]) == len(candidates)
    inverse = {axis["name"]: axis["inverse"] for axis in chart["parallelAxis"]}
    assert inverse["Validation accuracy (%)"] is False
    assert inverse["Predicted latency (ms)"] is True


def logged(*events: StageStarted | StageFinished | StatusChanged) -> list[EventSchema]:
    """The events of a log, ten seconds apart."""
    return [
        EventSchema(seq=i, at=START + timedelta(seconds=10 * i), body=encode(event)) for i, event in enumerate(events)
    ]


def change(before: JobStatus, after: JobStatus) -> StatusChanged:
    return StatusChanged(before, after)


def spans(bars: list[TimelineBar]) -> list[tuple[str, float, bool]]:
    return [(bar.row, bar.seconds, bar.complete) for bar in bars]


def test_a_stage_that_lost_its_worker_is_cut_and_goes_on_in_the_next_attempt() -> None:
    events = logged(
        change("queued", "running"),
        StageStarted("train", 0, 2),
        change("running", "queued"),
        change("queued", "running"),
        StageStarted("train", 0, 2),
        StageFinished("train", 20.0),
        StageStarted("explore", 1, 2),
    )
    now = START + timedelta(seconds=100)
    bars = timeline_bars(events[::-1], now)
    assert spans(bars) == [
        ("train", 10.0, False),
        ("attempt 1", 20.0, False),
        ("train", 10.0, True),
        ("explore", 40.0, False),
        ("attempt 2", 70.0, False),
    ]
    assert [row for row, _ in rows_of(bars)] == ["attempt 1", "attempt 2", "train", "explore"]
    pausing = logged(change("queued", "running"), change("running", "pausing"), change("pausing", "paused"))
    assert spans(timeline_bars(pausing, now)) == [("attempt 1", 20.0, False)]
