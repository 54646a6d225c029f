"""The dashboard's charts, drawings and texts: pure functions of the API's schemas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from nas.client import Client
from nas.core.drift import Drift
from nas.core.events import Traced
from nas.core.lifecycle import ALLOWED_STATUSES, STATUSES, JobStatus
from nas.core.measures import MetricKind
from nas.core.metrics import METRICS, share_interval
from nas.core.spec import SearchSpec, parse_spec
from nas.schemas.candidates import CandidateDetailSchema, CandidateSchema, FrontSchema
from nas.schemas.devices import DeviceComparisonSchema
from nas.schemas.jobs import EventSchema
from nas.schemas.predictors import PredictorCardSchema
from nas.schemas.searches import SearchSchema
from server.api.app import create_app
from server.dashboard import formatting
from server.dashboard.actions import ACTIONS
from server.dashboard.candidate.architecture_svg import architecture_svg, blocks, is_used
from server.dashboard.charts.axes import ChartSettings, Evidence, chart_axes
from server.dashboard.charts.comparison import comparison_chart
from server.dashboard.charts.drift import drift_chart
from server.dashboard.charts.hypervolume import hypervolume_chart
from server.dashboard.charts.options import BAD, SURFACE, Options, nice_range
from server.dashboard.charts.pareto import envelope, pareto_chart
from server.dashboard.charts.predictor import predictor_chart
from server.dashboard.charts.relaxation import by_run, operation_weights_chart, reading_charts
from server.dashboard.front_text import front_caption, limit_text
from server.dashboard.search.event_log import EventHistory
from server.dashboard.search.status_text import explain, last_interruption, status_periods
from server.dashboard.spec_text import spec_text
from server.settings import Settings
from tests.support.seeded_dashboard import FINISHED, QUARANTINED, QUEUED, RUNNING, THREE, seeded_store


@dataclass(frozen=True)
class SearchResources:
    """What REST says about a search."""

    search: SearchSchema
    front: FrontSchema
    candidates: list[CandidateSchema]
    events: list[EventSchema]
    details: Callable[[CandidateSchema], CandidateDetailSchema]


@dataclass(frozen=True)
class ServiceResources:
    """What REST says about the searches, by name, and the devices of the seeded service."""

    searches: Mapping[str, SearchResources]
    card: PredictorCardSchema
    drift: Drift
    comparison: DeviceComparisonSchema


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceResources]:
    folder = tmp_path_factory.mktemp("seeded")
    with seeded_store(folder) as seeds:
        app = TestClient(create_app(Settings(home=folder), seeds.store), "http://127.0.0.1:8765")
        with Client(transport=app._transport) as nas:
            yield ServiceResources(
                {name: resources(nas, seeds.ids[name]) for name in (FINISHED, THREE, RUNNING, QUEUED, QUARANTINED)},
                nas.predictors("this-machine")[-1],
                nas.drift("this-machine"),
                nas.compare("this-machine", "shelf"),
            )


def resources(nas: Client, search_id: str) -> SearchResources:
    return SearchResources(
        nas.search(search_id),
        nas.front(search_id),
        nas.candidates(search_id, limit=1000).items,
        nas.events(search_id, limit=1000).items,
        lambda candidate: nas.candidate(search_id, candidate.arch, candidate.origin),
    )


@pytest.fixture(scope="module")
def finished(service: ServiceResources) -> SearchResources:
    return service.searches[FINISHED]


@pytest.fixture(scope="module")
def three(service: ServiceResources) -> SearchResources:
    return service.searches[THREE]


@pytest.fixture(scope="module")
def running(service: ServiceResources) -> SearchResources:
    return service.searches[RUNNING]


def series(options: Options) -> dict[str, Any]:
    return {s["id"]: s for s in options["series"]}


def find(points: list[CandidateSchema], datum: dict[str, Any]) -> CandidateSchema:
    return next(p for p in points if (p.arch, p.origin) == (datum["arch"], datum["origin"]))


def kinds_of(options: Options, points: list[CandidateSchema], names: tuple[str, ...]) -> dict[str, set[str]]:
    """Per series, the kinds of the metrics of ``names`` whose values it draws."""
    out: dict[str, set[str]] = {}
    for s in options["series"]:
        for d in s["data"]:
            metrics = find(points, d)
            metric_names = {n for n in names if n in metrics.metrics and metrics.metrics[n].value in d["value"]}
            out.setdefault(s["id"], set()).update(METRICS[n].kind for n in metric_names)
    return out


LATENCIES = ("predicted_ms", "measured_ms")
ACCURACIES = ("val_accuracy", "test_accuracy")


@pytest.mark.parametrize("names", [LATENCIES, ACCURACIES])
def test_predicted_and_measured_never_share_a_series(finished: SearchResources, names: tuple[str, ...]) -> None:
    front, points = finished.front, finished.candidates
    kinds = kinds_of(pareto_chart(front, points), points, names)
    assert len(kinds) >= 5
    assert {k for series_kinds in kinds.values() for k in series_kinds} == {METRICS[n].kind for n in names}
    for ident, series_kinds in kinds.items():
        assert len(series_kinds) == 1, ident
        assert (series_kinds == {"measured"}) == (".measured." in ident)


def test_running_search_has_no_measured_series(running: SearchResources) -> None:
    search = running
    options = pareto_chart(search.front, search.candidates)
    assert options["xAxis"]["name"] == "Predicted latency (ms)"
    assert options["yAxis"]["name"] == "Validation accuracy (%, estimated)"
    assert not [i for i in series(options) if "measured" in i]


def test_final_axes_are_measured_and_predicted_positions_faint_and_hollow(finished: SearchResources) -> None:
    options = pareto_chart(finished.front, finished.candidates)
    assert options["xAxis"]["name"] == "Measured latency (ms)"
    assert options["yAxis"]["name"] == "Test accuracy (%, measured)"
    predicted = series(options)["search.predicted.positions"]
    assert predicted["data"]
    assert predicted["itemStyle"]["color"] == SURFACE
    assert predicted["itemStyle"]["opacity"] < 1


def test_final_chart_can_be_seen_as_predicted(finished: SearchResources) -> None:
    options = pareto_chart(finished.front, finished.candidates, ChartSettings(evidence="predicted"))
    assert options["xAxis"]["name"] == "Predicted latency (ms)"
    assert not [i for i in series(options) if "measured" in i]
    assert len(series(options)["search.predicted.candidates"]["data"]) == sum(
        c.origin == "search" for c in finished.candidates
    )


@pytest.mark.parametrize("name", [FINISHED, RUNNING], ids=["final", "running"])
def test_baseline_and_its_front_are_on_the_chart(service: ServiceResources, name: str) -> None:
    search = service.searches[name]
    by_id = series(pareto_chart(search.front, search.candidates))
    baseline = [s for i, s in by_id.items() if i.startswith("baseline")]
    assert sum(len(s["data"]) for s in baseline if s["type"] == "scatter") > 0
    front = next(s for i, s in by_id.items() if i.startswith("baseline") and i.endswith(".front"))
    axes = chart_axes(search.front, search.candidates, ChartSettings())
    non_dominated = envelope(search.front.baseline, axes.x, axes.y)
    assert [d["arch"] for d in front["data"]] == [c.arch for c in non_dominated]
    assert len(non_dominated) > 1
    if not search.front.final:
        assert len(non_dominated) == len(search.front.baseline)


def test_lines_are_lower_envelopes_in_every_mode(finished: SearchResources) -> None:
    for evidence in ("measured", "validation"):
        series_by_id = series(pareto_chart(finished.front, finished.candidates, ChartSettings(evidence=evidence)))
        for origin in ("search", "baseline"):
            values = [d["value"] for d in series_by_id[f"{origin}.measured.front"]["data"]]
            assert len(values) > 1
            assert all(x < next_x and y < next_y for (x, y), (next_x, next_y) in pairwise(values))


def unmeasured(search: SearchResources, kind: MetricKind) -> tuple[FrontSchema, list[CandidateSchema]]:
    """The search as it is on a device on which nothing can be measured: known by a table, or by peak figures."""

    def as_known(candidate: CandidateSchema) -> CandidateSchema:
        metrics = {n: m for n, m in candidate.metrics.items() if n != "measured_ms"}
        metrics = {n: m.model_copy(update={"kind": kind} if n.endswith("_ms") else {}) for n, m in metrics.items()}
        return candidate.model_copy(update={"metrics": metrics, "measurement": None, "status": "unverified"})

    front = search.front
    objectives = [
        o.model_copy(update={"metric": "predicted_ms", "label": "Predicted latency", "kind": kind})
        if o.metric == "measured_ms"
        else o
        for o in front.objectives
    ]
    changed = {name: [as_known(c) for c in getattr(front, name)] for name in ("members", "baseline")}
    return front.model_copy(update={"objectives": objectives, **changed}), [as_known(c) for c in search.candidates]


@pytest.mark.parametrize(
    ("kind", "title"),
    [("predicted", "Predicted latency (ms)"), ("estimated", "Calculated latency (ms, by formula)")],
    ids=["table", "roofline"],
)
@pytest.mark.parametrize("evidence", ["measured", "validation", "predicted"])
def test_every_kind_of_device_has_points_and_true_titles_in_every_mode(
    finished: SearchResources, kind: MetricKind, title: str, evidence: Evidence
) -> None:
    front, candidates = unmeasured(finished, kind)
    settings = ChartSettings(evidence=evidence)
    options = pareto_chart(front, candidates, settings)
    assert options["xAxis"]["name"] == title
    archs = {d["arch"] for s in options["series"] if s["type"] == "scatter" for d in s["data"]}
    assert {c.arch for c in front.members} <= archs
    caption = front_caption(front, chart_axes(front, candidates, settings), settings)
    assert "measured on the device" not in caption
    if evidence != "predicted":
        assert ("by a formula" in caption) == (kind == "estimated")


def test_any_two_metrics_and_logarithms(finished: SearchResources) -> None:
    settings = ChartSettings(x_metric="params", y_metric="upper_ms", log_x=True)
    options = pareto_chart(finished.front, finished.candidates, settings)
    assert (options["xAxis"]["name"], options["yAxis"]["name"]) == (
        "Parameters (exact)",
        "95 % upper bound (ms, predicted)",
    )
    assert options["xAxis"]["type"] == "log"
    archs = {d["arch"] for s in options["series"] for d in s["data"]}
    assert archs == {c.arch for c in finished.candidates}
    assert all(0 < options["xAxis"]["min"] < d["value"][0] for s in options["series"] for d in s["data"])
    assert series(options)["bound"]["markLine"]["data"] == []


def test_accuracies_of_members_have_error_bars_by_the_number_of_test_images(finished: SearchResources) -> None:
    low, high = share_interval(90.0, 1000)
    assert (low, high) == (pytest.approx(87.99, abs=0.01), pytest.approx(91.71, abs=0.01))
    assert share_interval(100.0, 50)[1] == pytest.approx(100.0)
    few, many = (
        series(pareto_chart(finished.front, finished.candidates, test_images=n))["search.measured.spreads"]["data"]
        for n in (100, 10_000)
    )
    tested = [c for c in finished.front.members if "test_accuracy" in c.metrics and "measured_ms" in c.metrics]
    assert len(few) == len(many) == len(tested) > 1
    assert all(a["value"][2] < b["value"][2] < b["value"][1] < b["value"][3] for a, b in zip(few, many, strict=True))
    assert series(pareto_chart(finished.front, finished.candidates))["search.measured.spreads"]["data"] == []


def test_a_tried_bound_is_a_line_and_says_what_it_leaves(finished: SearchResources) -> None:
    front = finished.front
    latencies = sorted(c.metrics["measured_ms"].value for c in front.members if "measured_ms" in c.metrics)
    settings = ChartSettings(limit=latencies[1])
    options = pareto_chart(front, finished.candidates, settings)
    assert series(options)["limit"]["markLine"]["data"][0]["xAxis"] == latencies[1]
    axes = chart_axes(front, finished.candidates, settings)
    assert f"2 of {len(latencies)} members remain" in limit_text(front, axes, latencies[1])
    assert "no member of the front remains" in limit_text(front, axes, latencies[0] / 2)
    assert limit_text(front, axes, None) == ""


@pytest.mark.parametrize("name", [FINISHED, RUNNING], ids=["final", "running"])
def test_references_are_on_the_chart_with_their_names(service: ServiceResources, name: str) -> None:
    search = service.searches[name]
    parent = search.front.members[0].model_copy(update={"origin": "reference", "name": "parent", "on_front": False})
    drawn = series(pareto_chart(search.front.model_copy(update={"references": [parent]}), search.candidates))
    [datum] = drawn["reference"]["data"]
    assert datum["label"]["formatter"] == "parent"
    assert datum["title"] == "parent"
    assert drawn["reference"]["label"]["show"]
    assert series(pareto_chart(search.front, search.candidates))["reference"]["data"] == []


def test_series_differ_by_more_than_colour(
    finished: SearchResources, three: SearchResources, running: SearchResources
) -> None:
    for search in (finished, running):
        by_id = series(pareto_chart(search.front, search.candidates))
        search_series = next(s for i, s in by_id.items() if i.startswith("search") and i.endswith(".front"))
        baseline_series = next(s for i, s in by_id.items() if i.startswith("baseline") and i.endswith(".front"))
        assert search_series["lineStyle"]["type"] != baseline_series["lineStyle"]["type"]
    by_id = series(pareto_chart(three.front, three.candidates))
    symbols = [by_id[f"search.measured.{s}"]["symbol"] for s in ("verified", "unverified", "violated")]
    assert len(set(symbols)) == 3
    assert by_id["baseline.measured.verified"]["symbol"] not in symbols


def test_violated_candidates_are_marked(three: SearchResources) -> None:
    points = three.candidates
    broken = {(p.origin, p.arch) for p in points if p.status == "violated"}
    assert broken
    by_id = series(pareto_chart(three.front, points))
    marked = [by_id[f"{origin}.measured.violated"] for origin in ("search", "baseline")]
    assert {(d["origin"], d["arch"]) for s in marked for d in s["data"]} == broken
    assert all(s["itemStyle"]["color"] == BAD and s["symbol"] == "triangle" for s in marked)


def test_measured_latencies_have_error_bars_within_the_axes(three: SearchResources) -> None:
    candidates = {(c.origin, c.arch): c for c in three.candidates}
    options = pareto_chart(three.front, three.candidates)
    measured = [c for c in candidates.values() if "measured_ms" in c.metrics]
    bars = {o: series(options)[f"{o}.measured.intervals"] for o in ("search", "baseline")}
    assert sum(len(s["data"]) for s in bars.values()) == len(measured) > 10
    for origin, bar in bars.items():
        assert bar["type"] == "custom"
        assert bar["silent"]
        for d in bar["data"]:
            measurement = candidates[origin, d["arch"]].measurement
            assert measurement is not None
            median, _, low, high = d["value"]
            assert (low, median, high) == (measurement.low_ms, measurement.median_ms, measurement.high_ms)
            assert options["xAxis"]["min"] <= low < median < high <= options["xAxis"]["max"]
    assert not {"search.measured.intervals", "baseline.measured.intervals"} & {
        e["name"] for e in options["legend"]["data"]
    }


def test_error_bars_are_drawn_over_measured_latency_only(three: SearchResources, running: SearchResources) -> None:
    for options in (
        pareto_chart(three.front, three.candidates, ChartSettings("macs")),
        pareto_chart(three.front, three.candidates, ChartSettings(evidence="predicted")),
        pareto_chart(running.front, running.candidates),
    ):
        assert not [d for i, s in series(options).items() if i.endswith(".intervals") for d in s["data"]]


def test_bound_is_a_line_and_lies_within_the_axis(finished: SearchResources) -> None:
    options = pareto_chart(finished.front, finished.candidates)
    (mark,) = series(options)["bound"]["markLine"]["data"]
    assert mark["xAxis"] == 0.5
    assert options["xAxis"]["min"] < 0.5 < options["xAxis"]["max"]
    assert "0.5 ms" in mark["label"]["formatter"]


def test_without_a_bound_there_is_no_line(running: SearchResources) -> None:
    search = running
    assert series(pareto_chart(search.front, search.candidates))["bound"]["markLine"]["data"] == []


def test_all_points_lie_within_the_axes_and_focus_narrows_them(running: SearchResources) -> None:
    search = running
    wide = pareto_chart(search.front, search.candidates)
    for s in wide["series"]:
        for d in s["data"]:
            assert wide["xAxis"]["min"] <= d["value"][0] <= wide["xAxis"]["max"]
            assert wide["yAxis"]["min"] <= d["value"][1] <= wide["yAxis"]["max"]
    near = pareto_chart(search.front, search.candidates, ChartSettings(focus=True))
    assert near["xAxis"]["max"] - near["xAxis"]["min"] < wide["xAxis"]["max"] - wide["xAxis"]["min"]


def test_every_datum_names_its_candidate_for_hover_and_click(finished: SearchResources) -> None:
    points = finished.candidates
    for s in pareto_chart(finished.front, points)["series"]:
        for d in s["data"]:
            assert find(points, d)
            assert d["metrics"]


def test_more_than_two_objectives_are_a_projection_without_a_line(three: SearchResources) -> None:
    front, points = three.front, three.candidates
    for x, title in (("latency", "Measured latency (ms)"), ("macs", "MACs (exact)")):
        options = pareto_chart(front, points, ChartSettings(x))
        assert options["xAxis"]["name"] == title
        assert series(options)["search.measured.front"]["data"] == []


def test_empty_front_can_be_drawn(service: ServiceResources) -> None:
    front = service.searches[QUEUED].front
    options = pareto_chart(front, [])
    assert all(s["data"] == [] for s in options["series"])
    assert options["xAxis"]["min"] < options["xAxis"]["max"]


def test_hypervolume_has_search_and_baseline_at_equal_evaluations(running: SearchResources) -> None:
    view = running.search
    by_id = series(hypervolume_chart(view.hypervolume_history))
    search_series, baseline_series = by_id["search.estimated.hypervolume"], by_id["baseline.estimated.hypervolume"]
    assert [d["value"][0] for d in search_series["data"]] == [d["value"][0] for d in baseline_series["data"]]
    assert [d["value"][1] for d in search_series["data"]] == [h.search for h in view.hypervolume_history]
    assert search_series["lineStyle"]["type"] != baseline_series["lineStyle"]["type"]
    assert search_series["symbol"] != baseline_series["symbol"]
    y_axis = hypervolume_chart(view.hypervolume_history)["yAxis"]
    assert y_axis["min"] > 0
    assert f"axis cut below {y_axis['min']:g}" in y_axis["name"]
    low = [replace(h, search=0.02 * (h.evaluations > 40), baseline=0.0) for h in view.hypervolume_history]
    y_axis = hypervolume_chart(low)["yAxis"]
    assert (y_axis["min"], y_axis["name"]) == (0.0, "Hypervolume (estimated)")


def test_predictor_chart_separates_architectures_above_their_bound(service: ServiceResources) -> None:
    card = service.card
    by_id = series(predictor_chart(card))
    above = sum(m > u for m, u in zip(card.measured_ms, card.upper_ms, strict=True))
    assert above > 0
    assert len(by_id["measured.outside"]["data"]) == above
    assert len(by_id["measured.inside"]["data"]) == len(card.measured_ms) - above
    assert len(by_id["bound"]["data"]) == len(card.upper_ms)


@pytest.mark.parametrize(
    ("values", "floor", "ceiling"),
    [
        ([0.1, 0.9], 0.0, 9e9),
        ([97.0, 97.0], 0.0, 100.0),
        ([], 0.0, 100.0),
        ([3e5, 2.4e6], 0.0, 9e99),
        ([0.0], 0.0, 1.0),
    ],
)
def test_axis_ends_are_round_and_hold_the_values(values: list[float], floor: float, ceiling: float) -> None:
    lo, hi, step = nice_range(values, floor, ceiling)
    assert floor <= lo < hi <= ceiling
    assert all(lo <= v <= hi for v in values)
    assert 2 <= (hi - lo) / step <= 9


def test_blocks_contain_every_layer_in_order(finished: SearchResources) -> None:
    subnet = finished.details(finished.front.members[0])
    layer_blocks = blocks(subnet.layers, subnet.choices)
    assert [x for b in layer_blocks for x in b.layers] == subnet.layers
    assert sum(b.macs for b in layer_blocks) == subnet.candidate.metrics["macs"].value
    assert sum(b.params for b in layer_blocks) == subnet.candidate.metrics["params"].value
    block = next(b for b in layer_blocks if b.name == "stage1.block1")
    kernel, expand = subnet.choices["stage1.block1.kernel"], subnet.choices["stage1.block1.expand"]
    assert block.tags[:2] == (f"k{kernel}", f"e{expand:g}")
    assert architecture_svg(layer_blocks, subnet.input_shape).count("<rect") == len(layer_blocks) + 1


def test_choices_of_absent_blocks_are_unused(finished: SearchResources) -> None:
    subnet = next(detail for p in finished.candidates if (detail := finished.details(p)).choices["stage1.depth"] == 1)
    layer_blocks = blocks(subnet.layers, subnet.choices)
    assert is_used("stage1.block1.kernel", layer_blocks, subnet.choices)
    assert not is_used("stage1.block3.kernel", layer_blocks, subnet.choices)
    assert is_used("resolution", layer_blocks, subnet.choices)
    assert is_used("stage1.width", layer_blocks, subnet.choices)


def test_drawing_escapes_names(finished: SearchResources) -> None:
    subnet = finished.details(finished.front.members[0])
    layers = [replace(subnet.layers[0], name="<script>alert(1)</script>")]
    assert "<script" not in architecture_svg(blocks(layers, {}), subnet.input_shape)


@pytest.mark.parametrize("how", ["YAML", "JSON"])
def test_spec_text_parses_to_the_same_spec(finished: SearchResources, how: Any) -> None:
    text = spec_text(finished.search.spec, how)
    assert parse_spec(SearchSpec, yaml.safe_load(text)).content_hash == finished.search.spec.content_hash


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formatting.count(1_234_567), "1.23 M"),
        (formatting.count(999), "999"),
        (formatting.quantity(0.04567, "ms"), "0.0457 ms"),
        (formatting.quantity(97.2168, "%"), "97.22 %"),
        (formatting.size(183_204), "183 kB"),
        (formatting.duration(3_725), "1 h 2 min"),
        (formatting.duration(4.21), "4.2 s"),
        (formatting.huge(2.9e11), "2.9 × 10¹¹"),
        (formatting.gain(0.82, 0.8), "+2.5 %"),
        (formatting.gain(None, 0.8), ""),
        (formatting.share(None), "–"),
        (formatting.reading("train_accuracy", 91.5), "91.50 %"),
        (
            formatting.age(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=5)),
            "5 h ago",
        ),
    ],
)
def test_formatting(text: str, expected: str) -> None:
    assert text == expected


# Statuses


def test_statuses_that_need_an_explanation_have_one(finished: SearchResources) -> None:
    view = finished.search
    explanations = {
        status: explain(view.model_copy(update={"status": status, "error": "it broke"})) for status in STATUSES
    }
    assert {status for status, explanation in explanations.items() if explanation is None} == {"running", "succeeded"}
    assert "It broke." in explanations["failed"].message
    assert "It broke." in explanations["quarantined"].message
    waiting = view.model_copy(update={"status": "queued", "waiting": "waiting for 1 GPU, position 3 of 12"})
    assert explain(waiting).message == "Waiting for 1 GPU, position 3 of 12. It continues from its last checkpoint."
    assert explain(waiting.model_copy(update={"attempts": 0})).message == "Waiting for 1 GPU, position 3 of 12."


def test_history_is_newest_first_with_durations_and_last_interruption(
    service: ServiceResources, finished: SearchResources
) -> None:
    changes = log_of(service.searches[QUARANTINED]).status_changes
    periods = status_periods(changes)
    assert [p.status for p in periods] == ["quarantined", "queued", *["running", "queued"] * 5]
    assert periods[0].seconds is None
    assert [p.seconds for p in periods[1:4]] == pytest.approx([4.0, 36.0, 4.0], abs=0.5)
    assert periods[-1].by == "ada"
    assert "ran out of memory" in last_interruption(changes)
    assert last_interruption(log_of(finished).status_changes) == ""


def log_of(search: SearchResources) -> EventHistory:
    log = EventHistory()
    log.append(search.events)
    return log


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_offers_what_the_lifecycle_allows(status: JobStatus) -> None:
    offered = {a.verb for a in ACTIONS if a.count_allowed([status])}
    assert offered == {verb for verb, allowed in ALLOWED_STATUSES.items() if status in allowed}
    assert {a.verb for a in ACTIONS if a.consequence} == {"cancel", "delete"}


def traced(run: int, epoch: int, key: str = "seed", **values: float) -> Traced:
    rows, columns = ("edge 0-1", "edge 0-2"), ("skip", "conv")
    return Traced("train", 10 * epoch, {key: run, "epoch": epoch, **values}, rows, columns, WEIGHTS)


WEIGHTS = ((0.25, 0.75), (0.9, 0.1))


def test_each_run_is_a_line_of_its_own() -> None:
    runs = by_run([traced(0, 1, entropy=1.5), traced(0, 2, entropy=1.2, eigenvalue=0.3), traced(4, 1, entropy=1.4)])
    charts = reading_charts(runs)
    assert list(charts) == ["entropy", "eigenvalue"]
    lines = {s["id"]: [d["value"] for d in s["data"]] for s in charts["entropy"]["series"]}
    assert lines == {"trace.entropy.seed 0": [[1, 1.5], [2, 1.2]], "trace.entropy.seed 4": [[1, 1.4]]}
    assert len({s["lineStyle"]["color"] for s in charts["entropy"]["series"]}) == 2
    assert [d["value"] for s in charts["eigenvalue"]["series"] for d in s["data"]] == [[2, 0.3]]
    assert "Dominant eigenvalue" in charts["eigenvalue"]["title"]["text"]


def test_runs_are_named_by_seed_or_part_in_order() -> None:
    runs = by_run([traced(10, 1, "subspace"), traced(2, 1, "subspace"), traced(10, 2, "subspace")])
    assert [(name, len(run)) for name, run in runs.items()] == [("subspace 2", 1), ("subspace 10", 2)]
    assert list(reading_charts(runs)) == []
    assert list(by_run([traced(2**40 + 1, 1)])) == ["seed 1099511627777"]


def test_operation_weights_are_drawn_edge_by_edge() -> None:
    [run] = by_run([traced(0, 1, entropy=1.5)]).values()
    options = operation_weights_chart(run[-1])
    cells = {tuple(d["value"][:2]): d["value"][2] for d in options["series"][0]["data"]}
    assert cells == {(x, y): WEIGHTS[y][x] for x in range(2) for y in range(2)}
    assert (options["xAxis"]["data"], options["yAxis"]["data"]) == (["skip", "conv"], ["edge 0-1", "edge 0-2"])
    assert options["visualMap"]["max"] == 1.0
    values = options["series"][1]  # apart from the cells, with which they would fade
    assert [d["label"]["formatter"] for d in values["data"]] == [
        f"{cells[tuple(d['value'])]:.2f}" for d in values["data"]
    ]
    assert options["visualMap"]["seriesIndex"] == 0


def test_no_traces_give_no_charts() -> None:
    assert by_run([]) == {}
    assert reading_charts({}) == {}


def test_drift_is_drawn_over_time_beside_its_limits(service: ServiceResources) -> None:
    options = drift_chart(service.drift)
    series = {s["id"]: s for s in options["series"]}
    measured = [r for r in service.drift.readings if r.ratio is not None]
    assert len(series["drift.readings"]["data"]) == len(measured) > 40
    medians = [d["value"][1] for d in series["drift.median"]["data"]]
    assert medians == [s.ratio for s in service.drift.sessions]
    assert [m["yAxis"] for m in series["drift.limits"]["markLine"]["data"]] == [0.9, 1.1]
    assert options["yAxis"]["max"] >= max(d["value"][1] for d in series["drift.readings"]["data"])


def test_comparison_groups_pairs_by_where_they_were_measured(service: ServiceResources) -> None:
    predicted: dict[str, Any] = {"first_kind": "predicted", "second_kind": "predicted"}
    pairs = service.comparison.pairs
    pairs = [pair.model_copy(update=predicted) if i >= len(pairs) - 40 else pair for i, pair in enumerate(pairs)]
    comparison = service.comparison.model_copy(update={"pairs": pairs})
    options = comparison_chart(comparison)
    counts = {s["id"]: len(s["data"]) for s in options["series"]}
    measured_on = Counter((p.first_kind, p.second_kind).count("measured") for p in comparison.pairs)
    assert sum(measured_on.values()) == len(comparison.pairs) >= 100
    assert counts == {
        "ratio": 2,
        "pairs.none": measured_on[0],
        "pairs.one": measured_on[1],
        "pairs.both": measured_on[2],
    }
    assert min(measured_on[0], measured_on[1], measured_on[2]) > 0
    assert "this-machine" in options["xAxis"]["name"]
    assert "shelf" in options["yAxis"]["name"]
