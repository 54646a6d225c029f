"""Searches over several devices: what a spec may say, what the store keeps by device, and what every screen shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from nas.client import Client
from nas.core.access import LOCAL
from nas.core.candidates import CandidateTable
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.events import (
    Evaluated,
    HypervolumeAt,
    Measured,
    MeasurementsWanted,
    StageFinished,
    decode,
    encode,
    fold_all,
)
from nas.core.jobs import MeasurementKey
from nas.core.spec import FleetSpec, SearchSpec, parse_spec
from nas.schemas.candidates import CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.searches import SearchSchema
from nas.stages.fronts import front_of
from server.api.app import create_app
from server.cli import options
from server.cli.app import app as command_line
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.fleets import BOUNDS, VERIFIED, add_board, candidate, fleet_spec, log, measured
from workers.remote import RemoteMeasurer

LATENCY = [{"name": "accuracy"}, {"name": "latency"}]


# What a spec may say


def test_the_first_of_a_fleet_is_the_device_of_the_search() -> None:
    spec = parse_spec(SearchSpec, {"fleet": {"devices": ["a", "b"]}})
    assert (spec.device, spec.devices, spec.views, spec.by_share) == ("a", ("a", "b"), (None,), False)
    assert SearchSpec.model_validate(spec.model_dump(mode="json")) == spec
    single = parse_spec(SearchSpec, {"device": "a"})
    assert (single.devices, single.views, single.on("a")) == (("a",), (None,), single)
    bounded = [{"name": "accuracy"}, {"name": "latency", "bound": 5}]
    front_each = parse_spec(
        SearchSpec,
        {"objectives": bounded, "fleet": {"devices": ["a", "b"], "front": "each", "bounds_ms": {"b": 2}}},
    )
    assert (front_each.views, front_each.by_share) == (("a", "b"), False)
    assert [front_each.on(d).bound("latency") for d in "ab"] == [5, 2]
    assert front_each.on("b").fleet is None


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"fleet": {"devices": ["a"]}}, ("fleet.devices", "at least 2")),
        ({"fleet": {"devices": ["a", "b", "a"]}}, ("each device once", "a, b, a")),
        ({"fleet": {"devices": ["a", "board"], "bounds_ms": {"bord": 3}}}, ("'bord'", "Did you mean 'board'")),
        ({"fleet": {"devices": ["a", "b"], "bounds_ms": {"a": -1}}}, ("bounds_ms.a", "greater than 0")),
        ({"fleet": {"devices": ["a", "b"], "bounds_ms": {"a": 1}}}, ("a bound for each device or none", "none for b")),
        ({"fleet": {"devices": ["a", "b"], "front": "best"}}, ("fleet.front", "'worst_case' or 'each'")),
        ({"fleet": {"devices": ["a", "b"]}, "device": "b"}, ("device", "first of fleet.devices", "'a'", "'b'")),
        ({"fleet": {"devices": ["a", "b"], "bounds": {"a": 1}}}, ("unknown key 'fleet.bounds'",)),
        (
            {
                "fleet": {"devices": ["a", "b"], "bounds_ms": {"a": 1, "b": 1}},
                "objectives": [{"name": "accuracy"}, {"name": "params"}],
            },
            ("latency among the objectives",),
        ),
        (
            {"fleet": {"devices": ["a", "b"]}, "objectives": [{"name": "accuracy"}, {"name": "energy"}]},
            ("no objective energy",),
        ),
    ],
)
def test_a_fleet_that_means_nothing_is_refused(record: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_spec(SearchSpec, record)
    for word in words:
        assert word in str(refused.value)


# What is known by device


def test_verified_is_what_is_verified_on_every_device() -> None:
    events = log()
    half = fold_all(events[:4]).candidates["search", fakes.arch(0, 1, 1).id]
    assert (half.status, half.measurement) == ("unverified", None)
    assert "measured_ms" not in half.metrics
    assert half.devices["bench"].status == "verified"
    state = fold_all([decode(encode(e)) for e in events])
    within_bound, broken = (state.candidates["search", fakes.arch(*g).id] for g in ((0, 1, 1), (3, 1, 1)))
    assert (within_bound.status, within_bound.metrics["measured_ms"], within_bound.metrics["measured_share"]) == (
        "verified",
        12.0,
        50.0,
    )
    assert within_bound.measurement == measured(12.0)
    assert (broken.status, broken.metrics["measured_share"]) == ("violated", 112.5)
    assert [d.status for d in broken.devices.values()] == ["violated", "verified"]
    on = broken.on("board")
    assert (on.status, on.metrics["measured_ms"], on.promised_ms) == ("verified", 15.0, 24.0)
    assert not {"predicted_share", "measured_share"} & set(on.metrics)


def test_a_refusal_on_one_device_leaves_a_network_unverified() -> None:
    refusal = Measured(fakes.arch(0, 1, 1), "search", measured(None), 24.0, "board")
    restored = fold_all([*log()[:4], refusal]).candidates["search", fakes.arch(0, 1, 1).id]
    assert restored.status == "unverified"
    assert restored.measurement is not None
    assert restored.measurement.refused == "unsteady"
    assert not {"measured_ms", "measured_share"} & set(restored.metrics)


def test_a_prediction_made_anew_keeps_what_was_measured() -> None:
    again = fold_all([*log(), Evaluated((candidate((0, 1, 1), 71.0),))]).candidates["search", fakes.arch(0, 1, 1).id]
    assert again.metrics["val_accuracy"] == 71.0
    assert again.status == "verified"
    assert again.devices["bench"].measurement == measured(3.0)


def test_what_is_measured_needs_its_protocol_on_every_device() -> None:
    p = candidate((0, 1, 1), 70.0)
    smuggled = {"bench": replace(p.devices["bench"], measurement=measured(1.0))}
    with pytest.raises(InvalidInput, match="needs its protocol"):
        Evaluated((replace(p, devices=smuggled),))
    with pytest.raises(InvalidInput, match="'pi'"):
        fold_all([*log(), Measured(fakes.arch(0, 1, 1), "search", measured(1.0), 1.0, "pi")])


def test_events_and_candidates_of_before_are_still_read() -> None:
    old = encode(Evaluated((fakes.candidate((1, 1, 1), 80.0),)))
    for p in old["candidates"]:
        del p["devices"]
    record = encode(Measured(fakes.arch(1, 1, 1), "search", fakes.measurement(5.0), 6.0))
    volume = encode(HypervolumeAt(2, 0.5, 0.4))
    del record["device"], volume["device"]
    state = fold_all([decode(old), decode(record), decode(volume)])
    [restored] = state.candidates.values()
    assert (restored.status, restored.metrics["measured_ms"], dict(restored.devices)) == ("verified", 5.0, {})
    assert state.hypervolume == (HypervolumeAt(2, 0.5, 0.4),)


def test_volumes_are_kept_by_device() -> None:
    state = fold_all(
        [HypervolumeAt(2, 0.5, 0.4, "a"), HypervolumeAt(2, 0.3, 0.2, "b"), HypervolumeAt(2, 0.6, 0.4, "a")]
    )
    assert [(h.device, h.search) for h in state.hypervolume] == [("b", 0.3), ("a", 0.6)]


def test_columns_hold_what_points_do() -> None:
    state = fold_all(log())
    candidates = [*state.candidates.values()]
    table = CandidateTable.of(candidates)
    assert [table.candidate(i) for i in range(len(table))] == candidates
    later = CandidateTable().updated(table.of_origin("search"), CandidateTable.of(candidates[:3]))
    later = later.updated(table.of_origin("baseline"), CandidateTable.of(candidates[3:]))
    assert [later.candidate(i) for i in range(len(later))] == candidates
    for device in BOUNDS:
        assert [later.on(device).candidate(i) for i in range(len(later))] == [p.on(device) for p in candidates]


# Fronts


def test_the_worst_case_is_the_largest_share_of_a_bound() -> None:
    spec = fleet_spec(bounds_ms=BOUNDS)
    before = fold_all(log()[:2])
    front = front_of(spec, before)
    assert front.metrics == ("val_accuracy", "predicted_share")
    # The most accurate network is predicted to take 7 ms of 8 on bench, 7.7 ms at the most; the last one breaks none.
    assert [p.arch.genes for p in front.members] == [(0, 3, 3), (3, 1, 1), (0, 1, 1)]
    after = fold_all([*log(), VERIFIED])
    front = front_of(spec, after)
    assert front.metrics == ("test_accuracy", "measured_share")
    assert [p.arch.genes for p in front.members] == [(0, 1, 1)]
    assert front.members[0].status == "verified"


def test_without_bounds_the_worst_case_is_the_slowest_device() -> None:
    spec = fleet_spec()
    front = front_of(spec, fold_all(log(by_share=False)[:2]))
    assert front.metrics == ("val_accuracy", "predicted_ms")
    assert [(p.arch.genes, p.metrics["predicted_ms"]) for p in front.members] == [((0, 3, 3), 7.0), ((0, 1, 1), 3.0)]


def test_a_bound_broken_on_one_device_counts_before_all_have_measured() -> None:
    """One device is known by figures only, so latency stays predicted."""
    state = fold_all([e for e in log() if not isinstance(e, Measured) or e.device == "bench"])
    halves = {"bench": {"measured": True}, "board": {"measured": False}}
    ended = fold_all([StageFinished("verify", 1.0, {"measured": False, "fleet": halves})], state)
    front = front_of(fleet_spec(bounds_ms=BOUNDS), ended)
    assert front.metrics == ("test_accuracy", "predicted_share")
    assert [p.arch.genes for p in front.members] == [(0, 3, 3), (0, 1, 1)]


def test_each_device_has_a_front_of_its_own() -> None:
    spec = fleet_spec(front="each", bounds_ms=BOUNDS)
    state = fold_all([*log(), VERIFIED])
    bench, board = (front_of(spec, state, device=name) for name in BOUNDS)
    assert front_of(spec, state) == bench
    assert bench.metrics == board.metrics == ("test_accuracy", "measured_ms")
    assert [p.arch.genes for p in bench.members] == [(0, 1, 1)]
    assert [p.arch.genes for p in board.members] == [(3, 1, 1), (0, 1, 1)]
    assert [p.metrics["measured_ms"] for p in board.members] == [15.0, 12.0]
    assert bench.hypervolume != board.hypervolume


# The service


@pytest.fixture
def any_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store over either kind of database."""
    fakes.use_plugins(monkeypatch)
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        add_board(opened)
        yield opened


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        add_board(opened)
        yield opened


@pytest.fixture
def api(store: Store, tmp_path: Path) -> TestClient:
    return TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1", raise_server_exceptions=False)


def submit(api: TestClient, spec: SearchSpec | dict[str, Any], query: str = "") -> httpx.Response:
    record = spec if isinstance(spec, dict) else spec.model_dump(mode="json")
    return api.post(f"/v1/searches{query}", json=record)


def test_a_worker_gets_every_device_with_its_predictor(store: Store) -> None:
    fakes.add_search(store, fleet_spec())
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    assert [d.name for d in lease.payload.devices] == ["bench", "board"]
    assert len({d.predictor.blob for d in lease.payload.devices}) == 2
    fakes.add_search(store)
    single_lease = store.jobs.claim("worker", 10.0)
    assert single_lease is not None
    assert single_lease.payload.devices == lease.payload.devices[:1]


def test_what_was_measured_on_each_device_is_read_back(any_store: Store) -> None:
    store = any_store
    search = fakes.add_search(store, fleet_spec(bounds_ms=BOUNDS))
    expected = fold_all(log())
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    for event in log():  # one at a time, so that every row changes often
        fakes.append(store, lease, [event])
        store.queries.evaluated(search)  # the cache follows
    assert dict(store.queries.state(search)[1].candidates) == dict(expected.candidates)
    with_bounds = store.queries.search(search)
    assert [(m.device, m.bound_ms, m.verified) for m in with_bounds.fleet] == [("bench", 8.0, 1), ("board", 24.0, 2)]


def test_each_device_is_waited_for_at_once_and_keeps_its_own_results(any_store: Store) -> None:
    """Two agents with one protocol measure the same network; neither gets the other's result."""
    store = any_store
    job = fakes.add_search(store, fleet_spec())
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    profiles = {n: replace(fakes.PROFILE, name=n, source="agent", canary_ms=1.0) for n in ("nano", "pi")}
    blob = store.blobs.put(b"model")
    requests = [MeasurementsWanted("verify", p, {"net": blob}) for p in profiles.values()]
    for profile in profiles.values():
        store.measurements.register(profile.name, "one", profile, {}, LOCAL)
    assert fakes.append(store, lease, requests) == "stop"
    waiting = store.queries.search(job).waiting
    assert waiting is not None
    assert "device nano: 0 of 1 networks measured" in waiting
    assert "device pi: 0 of 1 networks measured" in waiting
    for median_ms, (name, profile) in enumerate(profiles.items(), start=1):
        assert store.jobs.claim("worker", 10.0) is None
        task = store.measurements.claim(name, "one", LOCAL)
        assert task is not None
        result = replace(measured(float(median_ms)), profile=profile.id)
        store.measurements.finish(name, task.id, task.lease, result, None, LOCAL)
    again = store.jobs.claim("worker", 10.0)
    assert again is not None
    results = again.payload.measurements
    assert set(results) == {MeasurementKey(p.name, "net", p.protocol.id) for p in profiles.values()}
    remote = RemoteMeasurer(results, store.blobs)
    assert [[m.median_ms for m in remote([b""], p, ["net"])] for p in profiles.values()] == [[1.0], [2.0]]


def test_bad_fleets_are_refused_at_submission(store: Store, api: TestClient) -> None:
    def answer(**fleet: Any) -> tuple[int, str]:
        record = fakes.search_spec().model_dump(mode="json") | {"fleet": fleet, "device": fleet["devices"][0]}
        response = submit(api, record)
        return response.status_code, response.text

    for fleet, words in (
        ({"devices": ["bench", "bord"]}, ("unknown device 'bord'", "Did you mean 'board'", "nas devices add bord")),
        ({"devices": ["bench", "bench"]}, ("each device once",)),
        ({"devices": ["bench", "board"], "bounds_ms": {"pi": 1.0}}, ("'pi'", "expected one of bench, board")),
        ({"devices": ["bench", "board"], "bounds_ms": {"bench": 9, "board": 0.5}}, ("on board", "lowest reachable")),
    ):
        status, text = answer(**fleet)
        assert status == 422
        for word in words:
            assert word in text.replace('\\"', '"'), text
    other = fakes.search_spec(space={"name": "tiny", "params": {"offset": 1}}).model_dump(mode="json")
    record = other | {"fleet": {"devices": ["bench", "board"]}}
    assert "device 'bench' has no latency predictor for this space" in submit(api, record).json()["message"]
    assert store.queries.searches(None, 10, None).items == []


def test_a_dry_run_says_what_each_device_can_reach(api: TestClient) -> None:
    dry = submit(api, fleet_spec(bounds_ms=BOUNDS), "?dry_run=true&measure=false")
    view = DryRunSchema.model_validate(dry.json())
    assert view.feasible
    assert [(r.device, r.bound_ms, r.lowest_reachable_ms) for r in view.fleet] == [
        ("bench", 8.0, pytest.approx(1.1)),
        ("board", 24.0, pytest.approx(1.1)),
    ]
    assert view.fleet[0].range_ms == (1.0, 10.0)
    assert view.fleet[1].range_ms == (1.0, 19.0)
    shares = [r.feasible_share for r in view.fleet]
    assert view.feasible_share is not None
    assert all(share is not None and view.feasible_share <= share for share in shares)


def searched(store: Store, spec: SearchSpec) -> str:
    search = fakes.add_search(store, spec)
    fakes.run_log(store, [*log(spec.by_share), VERIFIED])
    return search


def test_the_answers_have_every_device(store: Store, api: TestClient) -> None:
    search = searched(store, fleet_spec(bounds_ms=BOUNDS))
    front = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front").json())
    assert (front.device, [o.metric for o in front.objectives]) == (None, ["test_accuracy", "measured_share"])
    assert front.objectives[1].bound == 100.0
    [member] = front.members
    assert member.status == "verified"
    assert {n: d.metrics["measured_ms"].value for n, d in member.devices.items()} == {"bench": 3.0, "board": 12.0}
    assert [d.promised_ms for d in member.devices.values()] == [8.0, 24.0]
    board = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front?device=board").json())
    assert (board.device, board.objectives[1].metric, board.objectives[1].bound) == ("board", "measured_ms", 24.0)
    assert [p.metrics["measured_ms"].value for p in board.members] == [15.0, 12.0]
    listed = CandidatePage.model_validate(
        api.get(f"/v1/searches/{search}/candidates?device=board&order=measured_ms").json()
    )
    assert [p.metrics["measured_ms"].value for p in listed.items[:2]] == [12.0, 15.0]
    assert [p.on_front for p in listed.items[:2]] == [True, True]
    wrong = api.get(f"/v1/searches/{search}/candidates?device=bord")
    assert (wrong.status_code, "'board'" in wrong.json()["message"]) == (422, True)
    one = CandidateDetailSchema.model_validate(
        api.get(f"/v1/searches/{search}/candidates/{fakes.arch(3, 1, 1).id}").json()
    )
    assert [d.status for d in one.candidate.devices.values()] == ["violated", "verified"]


def test_an_answer_of_fronts_for_each(store: Store, api: TestClient) -> None:
    search = searched(store, fleet_spec(front="each"))
    first = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front").json())
    other = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front?device=board").json())
    assert (first.device, other.device) == ("bench", "board")
    assert first.hypervolume != other.hypervolume
    view = SearchSchema.model_validate(api.get(f"/v1/searches/{search}").json())
    assert [m.hypervolume for m in view.fleet] == [first.hypervolume, other.hypervolume]
    assert (view.front_size, view.hypervolume) == (len(first.members), first.hypervolume)


def test_a_child_may_have_another_fleet_or_none(store: Store, api: TestClient) -> None:
    parent = fakes.add_search(store, fleet_spec(bounds_ms=BOUNDS))
    fakes.run_log(store, [StageFinished("train", 1.0, {"supernet": store.blobs.put(b"net")}), *log(), VERIFIED])

    def child(verb: str, **body: Any) -> SearchSpec:
        answer = api.post(
            f"/v1/searches/{parent}/{verb}", json={"evaluations": 8, **body} if verb == "extend" else body
        )
        assert answer.status_code == 201, answer.text
        return SearchSchema.model_validate(answer.json()).spec

    assert child("extend").fleet == fleet_spec(bounds_ms=BOUNDS).fleet
    assert (child("extend", device="board").devices, child("fork", device="board").fleet) == (("board",), None)
    moved = child("extend", bounds={"latency": 20.0})
    assert moved.fleet == FleetSpec(devices=("bench", "board"))
    assert moved.bound_on("board") == 20.0
    objectives = [{"name": "accuracy"}, {"name": "latency", "bound": 20.0}]
    assert child("fork", objectives=objectives).bound_on("board") == 20.0
    assert child("fork", objectives=[{"name": "accuracy"}, {"name": "macs"}]).fleet == moved.fleet
    same = [o.model_dump() for o in fleet_spec(bounds_ms=BOUNDS).objectives]
    assert child("fork", objectives=same).fleet == fleet_spec(bounds_ms=BOUNDS).fleet
    fleet_record = {"devices": ["board", "bench"], "front": "each"}
    assert child("fork", fleet=fleet_record).views == child("extend", fleet=fleet_record).views == ("board", "bench")
    both = api.post(f"/v1/searches/{parent}/extend", json={"device": "bench", "fleet": fleet_record})
    assert (both.status_code, "got both" in both.json()["message"]) == (422, True)


# The command line


def run_command(
    arguments: list[str], transport: httpx.BaseTransport, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    monkeypatch.setattr(options, "Client", partial(Client, transport=transport, sleep=pytest.fail))
    done = CliRunner().invoke(command_line, arguments)
    return done.exit_code, done.output


def test_the_command_line_names_devices_and_prints_them_all(
    store: Store, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = searched(store, fleet_spec(bounds_ms=BOUNDS))

    def handle(request: httpx.Request) -> httpx.Response:
        response = api.request(request.method, str(request.url.raw_path.decode()), content=request.content)
        return httpx.Response(
            response.status_code, content=response.content, headers={"content-type": "application/json"}
        )

    transport = httpx.MockTransport(handle)
    code, output = run_command(["front", search], transport, monkeypatch)
    assert code == 0
    rows = [line for line in output.splitlines() if line.startswith(fakes.arch(0, 1, 1).id)]
    assert len(rows) == 3  # on the front, and once for each device
    assert any("board" in row and "12.0000" in row and "verified" in row for row in rows)
    code, output = run_command(["show", search], transport, monkeypatch)
    assert "bench and board" in output
    assert "one front, for the worst case" in output
    code, output = run_command(["front", search, "--device", "board", "--json"], transport, monkeypatch)
    assert json.loads(output)["members"][0]["devices"]["bench"]["status"] == "violated"

    sent: list[dict[str, Any]] = []

    def keep(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return handle(httpx.Request("GET", f"http://x/v1/searches/{search}"))

    for words in (
        ["--device", "pi=12", "--device", "server=2"],
        ["--device", "pi", "--device", "server", "--fleet", "each"],
        ["--device", "pi"],
    ):
        code, output = run_command(["submit", *words, "--json"], httpx.MockTransport(keep), monkeypatch)
        assert code == 0, output
    assert [s["device"] for s in sent] == ["pi"] * 3
    assert sent[0]["fleet"] == {
        "devices": ["pi", "server"],
        "front": "worst_case",
        "bounds_ms": {"pi": 12.0, "server": 2.0},
    }
    assert sent[1]["fleet"]["front"] == "each"
    assert sent[2]["fleet"] is None
    for wrong, message in (
        (["--device", "pi", "--fleet", "each"], "two devices or more"),
        (["--device", "pi=12"], "--bound-ms"),
        (["--device", "a=x", "--device", "b"], "in milliseconds, got 'x'"),
    ):
        code, output = run_command(["submit", *wrong], httpx.MockTransport(keep), monkeypatch)
        assert (code, message in " ".join(output.split())) == (2, True), output
    assert len(sent) == 3
