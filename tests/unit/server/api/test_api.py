"""The REST API: every route, every way it can refuse, and its own description."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Response
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from nas.core.access import Principal
from nas.core.errors import (
    Conflict,
    HwnasError,
    InfeasibleBound,
    InvalidSpec,
    MeasurementRefused,
    NotFound,
    StorageError,
)
from nas.core.events import Evaluated, Exported, Progress, StageFinished, StageStarted
from nas.core.retraining import RetrainSpec
from nas.core.scheduling import NodeResources
from nas.core.spec import DataSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.schemas.candidates import ArtifactSchema, CandidateDetailSchema, CandidatePage, FrontSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.jobs import EventPage
from nas.schemas.predictors import PredictorCardSchema
from nas.schemas.searches import SearchPage, SearchSchema
from nas.schemas.service import HealthSchema, WorkerSchema
from nas.strategies.once_for_all import ONCE_FOR_ALL
from server.api import errors, sse
from server.api.app import create_app
from server.api.limits import MAX_BODY
from server.api.strategy_check import check_params
from server.api.validate import add_device_command
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: fakes.Clock) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), clock) as opened:
        yield opened


@pytest.fixture
def app(store: Store, tmp_path: Path) -> FastAPI:
    return create_app(Settings(home=tmp_path), store)


@pytest.fixture
def api(app: FastAPI) -> TestClient:
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def body(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = fakes.search_spec(**changes).model_dump(mode="json")
    return record


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    """The answer is a ErrorSchema with this status and code, and its message holds the words."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"code", "message"}
    assert answer.json()["code"] == code
    for word in words:
        assert word in answer.json()["message"]


@pytest.fixture
def done(store: Store) -> str:
    """A search that has ended, with one artifact in the blob store."""
    fakes.add_device(store)
    search = fakes.add_search(store)
    fakes.run_log(store, fakes.search_log(store.blobs.put(b"abc")))
    return search


# Catalogue


def test_health_reports_whether_searches_can_run(api: TestClient, store: Store, clock: fakes.Clock) -> None:
    health = HealthSchema.model_validate(api.get("/v1/health").json())
    assert (health.status, health.workers, health.database) == ("degraded", 0, "sqlite")
    assert "no worker" in health.detail
    store.jobs.heartbeat("worker", 1)
    fakes.add_search(store)
    health = HealthSchema.model_validate(api.get("/v1/health").json())
    assert (health.status, health.workers, health.queued, health.running) == ("ok", 1, 1, 0)


def test_health_reports_a_lost_database(api: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_seconds: float) -> Any:
        raise StorageError("the database cannot be used: disk I/O error")

    monkeypatch.setattr(store.queries, "counts", broken)
    assert api.get("/v1/health").json()["detail"] == "the database cannot be used: disk I/O error"


def test_the_catalogue_lists_plug_ins(api: TestClient) -> None:
    space = api.get("/v1/spaces").json()
    assert [s["name"] for s in space] == ["tiny"]
    assert space[0]["summary"].startswith("Three decisions")
    strategy = api.get("/v1/strategies").json()
    assert (strategy[0]["name"], strategy[0]["params"]) == ("plain", {"epochs": 3})
    assert api.get("/v1/datasets").json() == ["blank"]
    tasks = {task["name"]: task for task in api.get("/v1/tasks").json()}
    assert next(iter(tasks)) == "single_label"
    mae = tasks["regression"]
    assert (mae["objective"], mae["goal"], mae["labels"], mae["outputs"]) == ("mae", "min", "values", "vector")
    assert tasks["agreement"]["of_model"]
    assert "test_miou" in tasks["segmentation"]["metrics"]


# Submitting


def test_submitted_search_is_queued_with_its_stages(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    answer = api.post("/v1/searches", json=body())
    assert answer.status_code == 201
    view = SearchSchema.model_validate(answer.json())
    assert view.spec == fakes.search_spec()
    assert view.status == "queued"
    assert [s.name for s in view.stages] == ["estimate", "train", "explore", "verify", "refine", "export"]
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    assert lease.job_id == view.id
    assert lease.payload.devices[0].predictor.family == "flat"


def test_repeated_idempotency_key_submits_once(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    key = {"Idempotency-Key": "mine"}
    first = api.post("/v1/searches", json=body(), headers=key)
    again = api.post("/v1/searches", json=body(), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    refused(api.post("/v1/searches", json=body(seed=5), headers=key), 409, "conflict", "mine", first.json()["id"])
    assert len(api.get("/v1/searches").json()["items"]) == 1


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"space": {"name": "tinny"}}, "unknown_name", ["tinny", "'tiny'"]),
        ({"space": {"name": "tiny", "params": {"x": 1}}}, "invalid_spec", ["x"]),
        ({"strategy": {"name": "plane"}}, "unknown_name", ["'plain'"]),
        ({"strategy": {"name": "plain", "params": {"epoch": 1}}}, "invalid_spec", ["epoch", "expected: epochs"]),
        ({"data": {"name": "blanc"}}, "unknown_name", ["'blank'"]),
        ({"data": {"name": "blank", "path": "/x"}}, "invalid_spec", ["no path"]),
        ({"device": "bensh"}, "invalid_spec", ["'bench'", "nas devices add bensh --space tiny --data blank"]),
        (
            {"data": {"name": "blank", "params": {"classes": 3}}},
            "invalid_spec",
            ["tiny-0-3", "nas devices add bench --space tiny --data blank --data-param classes=3"],
        ),
        ({"supernet": "nothing"}, "invalid_spec", ["no search 'nothing'"]),
        ({"budgt": {}}, "invalid_spec", ["budgt", "budget"]),
        ({"budget": {"evaluations": 1}}, "invalid_spec", ["budget.evaluations", "8"]),
        ({"name": "\x00"}, "invalid_spec", ["NUL"]),
        ({"seed": -1}, "invalid_spec", ["seed"]),
    ],
)
def test_invalid_search_is_rejected(
    api: TestClient, store: Store, change: dict[str, Any], code: str, words: list[str]
) -> None:
    fakes.add_device(store)
    refused(api.post("/v1/searches", json={**body(), **change}), 422, code, *words)
    assert api.get("/v1/searches").json()["items"] == []


def test_add_device_command_has_only_required_options() -> None:
    assert add_device_command(SearchSpec(device="pi")) == "nas devices add pi"
    spec = SearchSpec(
        space=SpaceSpec(params={"preset": "cifar", "kernels": [3, 5], "x": "yes"}),
        data=DataSpec(name="npz", path="/a b.npz"),
    )
    assert add_device_command(spec) == (
        "nas devices add this-machine --space mobilenet_v3 --param preset=cifar --param 'kernels=[3, 5]' "
        "--param 'x=\"yes\"' --data npz --data-path '/a b.npz'"
    )


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"source": "agent", "threads": 2}, "--agent --threads 2"),
        ({"source": "table", "table": {"blob": "0" * 64, "unit": "us"}}, "--table FILE --unit us"),
        (
            {"source": "roofline", "roofline": {"flops_per_s": 2e12, "bytes_per_s": 5e10}},
            "--flops 2e+12 --bandwidth 5e+10",
        ),
    ],
)
def test_a_device_gets_a_further_predictor_from_its_own_source(
    api: TestClient, store: Store, changes: dict[str, Any], options: str
) -> None:
    """Not from the machine of the service, under the device's name."""
    added = fakes.device_spec(name="phone", **changes)
    store.jobs.submit(added, None)
    answer = api.post("/v1/searches", json={**body(), "device": "phone"})
    refused(answer, 422, "invalid_spec", f"nas devices add phone {options}")


def test_device_during_onboarding_has_no_predictor(api: TestClient, store: Store) -> None:
    store.jobs.submit(fakes.device_spec(), None)
    refused(api.post("/v1/searches", json=body()), 422, "invalid_spec", "still being added")


@pytest.mark.parametrize(
    ("objective", "bound", "words"),
    [
        ("latency", 1.0, ["latency", "bench", "1.1 ms"]),  # the smallest network's upper bound is 1.1 ms
        ("params", 99.0, ["params", "100"]),
        ("macs", 999.0, ["macs", "1000"]),
    ],
)
def test_infeasible_bounds_are_rejected(
    api: TestClient, store: Store, objective: str, bound: float, words: list[str]
) -> None:
    fakes.add_device(store)

    def objectives(value: float) -> list[dict[str, Any]]:
        other_objectives = [{"name": n} for n in ("accuracy", "latency") if n != objective]
        return [*other_objectives, {"name": objective, "bound": value}]

    refused(api.post("/v1/searches", json=body(objectives=objectives(bound))), 422, "infeasible_bound", *words)
    reachable = {"latency": 1.1000001, "params": 100.0, "macs": 1000.0}[objective]
    assert api.post("/v1/searches", json=body(objectives=objectives(reachable))).status_code == 201


def test_unsupported_objective_is_rejected(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    spec = body(objectives=[{"name": "accuracy"}, {"name": "peak_memory", "bound": 1e5}])
    refused(api.post("/v1/searches", json=spec), 422, "invalid_spec", "peak_memory", "peak_bytes", "tiny")


def test_dry_run_reports_ranges_and_feasibility(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    spec = body(objectives=[{"name": "accuracy"}, {"name": "latency", "bound": 5.5}])
    answer = api.post("/v1/searches?dry_run=true", json=spec)
    assert answer.status_code == 200
    view = DryRunSchema.model_validate(answer.json())
    assert (view.feasible, view.problems, view.space_size) == (True, [], 64.0)
    assert view.ranges["params"] == (100.0, 190.0)
    assert view.ranges["macs"] == (1000.0, 1900.0)
    assert view.ranges["predicted_ms"] == (1.0, 10.0)
    assert view.lowest_reachable_ms == pytest.approx(1.1)
    # Of the 64 gene vectors, upper_ms = 1.1 (1 + d0 + d1 + d2 if d1 else 0) <= 5.5 holds for 4*4 + 10 + 6 + 3.
    assert view.feasible_share == pytest.approx((16 + 9 + 6 + 3) / 64, abs=0.02)
    assert view.stages == ["estimate", "train", "explore", "verify", "refine", "export"]
    assert view.spec_hash == fakes.search_spec(objectives=spec["objectives"]).content_hash
    assert api.get("/v1/searches").json()["items"] == []


def test_dry_run_lists_problems_without_error(api: TestClient) -> None:
    spec = body(objectives=[{"name": "accuracy"}, {"name": "params", "bound": 1.0}], supernet="nothing")
    view = DryRunSchema.model_validate(api.post("/v1/searches?dry_run=true", json=spec).json())
    assert not view.feasible
    assert len(view.problems) == 3
    assert (view.lowest_reachable_ms, view.feasible_share) == (None, 0.0)
    refused(api.post("/v1/searches?dry_run=true", json=body(space={"name": "x"})), 422, "unknown_name", "tiny")


# Going on from a trained search


def test_extending_reuses_the_supernet(api: TestClient, store: Store, done: str) -> None:
    change = {"evaluations": 40, "bounds": {"latency": 7.0}, "seed": 3, "name": "more"}
    answer = api.post(f"/v1/searches/{done}/extend", json=change)
    assert answer.status_code == 201
    child = SearchSchema.model_validate(answer.json())
    assert (child.parent, child.spec.supernet, child.spec.name, child.spec.seed) == (done, done, "more", 3)
    assert child.spec.budget.evaluations == 40
    assert (child.spec.bound("latency"), child.spec.space) == (7.0, fakes.search_spec().space)
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    assert lease.payload.supernet_blob == store.blobs.put(b"abc")


def test_fork_may_retrain_and_extension_does_not_train(api: TestClient, done: str) -> None:
    retrain = {"networks": 2, "epochs": 5, "trials": 3, "seeds": 1, "batch_size": 64}
    fork = SearchSchema.model_validate(api.post(f"/v1/searches/{done}/fork", json={"retrain": retrain}).json())
    assert fork.spec.retrain == RetrainSpec.model_validate(retrain)
    assert [s.name for s in fork.stages] == ["estimate", "train", "explore", "retrain", "verify", "refine", "export"]
    again = SearchSchema.model_validate(api.post(f"/v1/searches/{fork.id}/fork", json={"seed": 4}).json())
    assert again.spec.retrain == fork.spec.retrain
    longer = SearchSchema.model_validate(api.post(f"/v1/searches/{fork.id}/extend", json={}).json())
    assert longer.spec.retrain is None
    url = f"/v1/searches/{done}/fork"
    refused(api.post(url, json={"retrain": {"networks": 99}}), 422, "invalid_spec", "at most budget.verified")


def test_extension_with_repeated_key_submits_once(api: TestClient, done: str) -> None:
    statuses = [
        api.post(f"/v1/searches/{done}/extend", json={"seed": 9}, headers={"Idempotency-Key": "k"}).status_code
        for _ in range(2)
    ]
    assert statuses == [201, 200]


def test_invalid_extension_is_rejected(api: TestClient, store: Store, done: str) -> None:
    url = f"/v1/searches/{done}/extend"
    refused(api.post(url, json={"bounds": {"params": 1.0}}), 422, "unknown_name", "params", "latency")
    refused(api.post(url, json={"bounds": {"latency": -1.0}}), 422, "invalid_spec", "bound")
    refused(api.post(url, json={"bounds": {"latency": 0.5}}), 422, "infeasible_bound")
    refused(api.post(url, json={"device": "other"}), 422, "invalid_spec", "nas devices add other")
    refused(api.post(url, json={"evaluation": 1}), 422, "invalid_spec", "evaluation", "evaluations")
    refused(api.post("/v1/searches/none/extend", json={}), 404, "not_found", "none")
    untrained = fakes.add_search(store)
    refused(api.post(f"/v1/searches/{untrained}/extend", json={}), 409, "conflict", "not finished its training")


NETWORK = fakes.arch(3, 3, 3)


@pytest.fixture
def exported(store: Store) -> str:
    """A search that has exported a network."""
    fakes.add_device(store)
    search = fakes.add_search(store)
    package = Exported(NETWORK, f"{NETWORK.id}.zip", store.blobs.put(b"package"), 7, "application/zip")
    fakes.run_log(store, [*fakes.search_log(store.blobs.put(b"abc")), package])
    return search


def taught_by(search: str, network: str = NETWORK.id, **changes: Any) -> dict[str, Any]:
    return body(**changes) | {"retrain": {"networks": 2, "teacher": {"search": search, "network": network}}}


def test_a_model_of_another_search_teaches(api: TestClient, store: Store, exported: str) -> None:
    answer = api.post("/v1/searches", json=taught_by(exported))
    assert answer.status_code == 201, answer.text
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    teacher = lease.payload.teacher
    assert (teacher.search, teacher.network, teacher.package) == (exported, NETWORK.id, store.blobs.put(b"package"))
    assert teacher.space == fakes.search_spec().space
    refused(api.delete(f"/v1/searches/{exported}"), 409, "conflict", "learns from its model")


def test_a_teacher_must_be_exported_and_fit(api: TestClient, done: str, exported: str) -> None:
    url = "/v1/searches"
    refused(api.post(url, json=taught_by("nothing")), 422, "invalid_spec", "no search 'nothing'")
    refused(api.post(url, json=taught_by(done)), 422, "invalid_spec", "exported models", "has none")
    refused(api.post(url, json=taught_by(exported, "n")), 422, "invalid_spec", "retrain.teacher.network", NETWORK.id)
    fewer = {"name": "blank", "params": {"classes": 7}}
    refused(api.post(url, json=taught_by(exported, data=fewer)), 422, "invalid_spec", "7 classes", "tiny-0-10")


def test_supernet_of_another_space_or_data_is_rejected(api: TestClient, store: Store, done: str) -> None:
    space = {"name": "tiny", "params": {"offset": 1}}
    fakes.add_device(store, fakes.device_spec(space=space), "tiny-1-10")
    refused(api.post("/v1/searches", json=body(space=space, supernet=done)), 422, "invalid_spec", "tiny-1-10")
    data = {"name": "blank", "params": {"other": 1}}
    refused(api.post("/v1/searches", json=body(data=data, supernet=done)), 422, "invalid_spec", "other data")


# Reading a search


def test_listing_and_cancelling(api: TestClient, store: Store, clock: fakes.Clock) -> None:
    ids = []
    for _ in range(3):
        ids.append(fakes.add_search(store))
        clock.pass_(1.0)
    page = SearchPage.model_validate(api.get("/v1/searches?limit=2").json())
    assert [s.id for s in page.items] == ids[:0:-1]
    next_page = SearchPage.model_validate(api.get("/v1/searches", params={"limit": 2, "cursor": page.next}).json())
    assert ([s.id for s in next_page.items], next_page.next) == ([ids[0]], None)
    answer = api.post(f"/v1/searches/{ids[0]}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert [s["id"] for s in api.get("/v1/searches?status=cancelled").json()["items"]] == [ids[0]]


def test_list_by_parent_and_owner(api: TestClient, store: Store, done: str) -> None:
    other = fakes.add_search(store, by=Principal("ada", frozenset({"submit"})))
    child = api.post(f"/v1/searches/{done}/extend", json={"seed": 5}).json()["id"]

    def listed(query: str) -> list[str]:
        return [s["id"] for s in api.get(f"/v1/searches?{query}").json()["items"]]

    assert listed(f"parent={done}") == [child]
    assert listed(f"parent={child}") == []
    assert listed("owner=ada") == [other]
    assert set(listed("owner=local")) == {done, child}


def test_list_of_workers_with_recent_heartbeat(api: TestClient, store: Store, clock: fakes.Clock) -> None:
    assert api.get("/v1/workers").json() == []
    nodes = [NodeResources(cpus=8, gpus=2, memory_gb=64, labels={"gpu": "a100"}), NodeResources(cpus=4)]
    store.jobs.heartbeat(
        "node-a", 3, nodes, [NodeResources(cpus=6, memory_gb=40, labels={"gpu": "a100"}), NodeResources(cpus=4)], True
    )
    (worker,) = TypeAdapter(list[WorkerSchema]).validate_json(api.get("/v1/workers").content)
    assert (worker.name, worker.slots, worker.elastic) == ("node-a", 3, True)
    assert [(n.cpus, n.gpus, n.labels) for n in worker.nodes] == [(8, 2, {"gpu": "a100"}), (4, 0, {})]
    assert [(n.cpus, n.memory_gb) for n in worker.free] == [(6, 40), (4, 0)]
    clock.pass_(1000.0)
    assert api.get("/v1/workers").json() == []


def test_names_and_parameters_that_no_device_or_strategy_takes(api: TestClient) -> None:
    for device in ("", "my phone", "{}"):
        refused(api.post("/v1/searches", json={**body(), "device": device}), 422, "invalid_spec", "device", device)
    spec = SearchSpec(strategy=StrategySpec(params={"epochs": True}))
    with pytest.raises(InvalidSpec, match=r"once_for_all: epochs: expected a number, got a boolean"):
        check_params(ONCE_FOR_ALL, spec)


def test_ended_search_cannot_be_cancelled(api: TestClient, done: str) -> None:
    refused(api.post(f"/v1/searches/{done}/cancel"), 409, "conflict", "succeeded")


def test_front_of_a_finished_search(api: TestClient, done: str) -> None:
    front = FrontSchema.model_validate(api.get(f"/v1/searches/{done}/front").json())
    assert front.final
    assert [(o.metric, o.kind) for o in front.objectives] == [
        ("test_accuracy", "measured"),
        ("measured_ms", "measured"),
    ]
    assert {p.arch for p in front.members} == {fakes.arch(3, 3, 3).id, fakes.arch(1, 1, 1).id}
    assert all(p.on_front and p.measurement is not None for p in front.members)
    bounded = FrontSchema.model_validate(api.get(f"/v1/searches/{done}/front?bound_ms=6").json())
    assert {p.arch for p in bounded.members} == {fakes.arch(1, 1, 1).id}
    other = api.get(f"/v1/searches/{done}/front?objectives=accuracy,params").json()
    assert [o["metric"] for o in other["objectives"]] == ["test_accuracy", "params"]
    refused(api.get(f"/v1/searches/{done}/front?objectives=accuracy,colour"), 422, "unknown_name", "colour", "macs")
    refused(api.get(f"/v1/searches/{done}/front?objectives=accuracy,peak_memory"), 422, "invalid_input", "peak_memory")


def test_references_are_beside_the_front_and_never_on_it(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    search = fakes.add_search(store)
    parent = fakes.candidate((3, 3, 2), 99.0, "reference")
    log = fakes.search_log(store.blobs.put(b"abc"))
    verify = next(i for i, e in enumerate(log) if isinstance(e, StageStarted) and e.stage == "verify")
    evaluated = [Evaluated((parent,)), StageFinished("references", 0.0, {"names": {parent.arch.id: "parent"}})]
    fakes.run_log(store, [*log[:verify], *evaluated, *log[verify:]])
    front = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front").json())
    assert [(c.name, c.origin, c.arch, c.on_front) for c in front.references] == [
        ("parent", "reference", parent.arch.id, False)
    ]
    assert {c.origin for c in (*front.members, *front.baseline)} <= {"search", "baseline"}
    listed = api.get(f"/v1/searches/{search}/candidates?origin=reference").json()["items"]
    assert [c["name"] for c in listed] == ["parent"]
    detail = api.get(f"/v1/searches/{search}/candidates/{parent.arch.id}?origin=reference").json()
    assert detail["candidate"]["name"] == "parent"
    body = api.get(f"/v1/searches/{search}").json()
    assert body["evaluations"] == 3  # those of the search alone


def test_front_predicted_for_another_device(api: TestClient, store: Store, done: str) -> None:
    fakes.add_device(store, fakes.device_spec(name="slow"))
    front = FrontSchema.model_validate(api.get(f"/v1/searches/{done}/front?device=slow").json())
    assert not front.final
    assert [o.kind for o in front.objectives] == ["estimated", "predicted"]
    assert all(p.measurement is None and p.status == "unverified" for p in front.members)
    assert all("measured_ms" not in p.metrics for p in front.members)
    assert front.reference == [0.0, 10.0]  # the slowest of the evaluated networks, as predicted there
    refused(api.get(f"/v1/searches/{done}/front?device=none"), 404, "not_found", "none", "slow")
    fakes.add_device(store, fakes.device_spec(name="new"), "tiny-other")
    refused(api.get(f"/v1/searches/{done}/front?device=new"), 404, "not_found", "nas devices add new")


def test_candidate_pages_order_and_filters(api: TestClient, done: str) -> None:
    page = CandidatePage.model_validate(api.get(f"/v1/searches/{done}/candidates?origin=search").json())
    assert [p.metrics["val_accuracy"].value for p in page.items] == [90.0, 80.0, 60.0]
    assert page.items[0].metrics["predicted_ms"].unit == "ms"
    assert page.items[0].on_front
    assert not page.items[2].on_front
    first = api.get(f"/v1/searches/{done}/candidates?limit=2&order=params").json()
    next_page = api.get(f"/v1/searches/{done}/candidates", params={"order": "params", "cursor": first["next"]}).json()
    assert first["total"] == next_page["total"] == 5
    assert len(first["items"] + next_page["items"]) == 5
    refused(api.get(f"/v1/searches/{done}/candidates?order=x"), 422, "unknown_name")
    refused(api.get(f"/v1/searches/{done}/candidates?cursor=x"), 422, "invalid_input", "cursor")
    refused(api.get(f"/v1/searches/{done}/candidates?limit=1001"), 422, "invalid_input", "limit")


def test_candidate_detail(api: TestClient, done: str) -> None:
    arch = fakes.arch(3, 3, 3).id
    view = CandidateDetailSchema.model_validate(api.get(f"/v1/searches/{done}/candidates/{arch}").json())
    assert view.choices == {"d0": 4, "d1": 4, "d2": 4}
    assert (view.input_shape, view.layers[0].op) == ((1, 8, 8), "dense")
    assert [a.name for a in view.artifacts] == ["model.onnx"]
    refused(api.get(f"/v1/searches/{done}/candidates/{arch}?origin=baseline"), 404, "not_found", arch)


def test_artifact_download_equals_the_exported_file(api: TestClient, store: Store, done: str) -> None:
    views = [ArtifactSchema.model_validate(a) for a in api.get(f"/v1/searches/{done}/artifacts").json()]
    assert len(views) == 2
    answer = api.get(views[0].url)
    assert (answer.content, answer.headers["ETag"]) == (b"abc", f'"{views[0].sha256}"')
    assert api.get(views[0].url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    refused(api.get(views[0].url + "x"), 404, "not_found", "model.onnx")


def test_damaged_artifact_is_not_sent(api: TestClient, tmp_path: Path, done: str) -> None:
    view = ArtifactSchema.model_validate(api.get(f"/v1/searches/{done}/artifacts").json()[0])
    (tmp_path / "blobs" / view.sha256[:2] / view.sha256).write_bytes(b"abX")
    refused(api.get(view.url), 507, "storage", "damaged")


@pytest.mark.parametrize(
    "path", ["", "/front", "/candidates", "/candidates/x", "/artifacts", "/artifacts/x/y", "/events", "/events?limit=1"]
)
def test_unknown_search_is_not_found(api: TestClient, store: Store, path: str) -> None:
    refused(api.get(f"/v1/searches/nothing{path}"), 404, "not_found", "nothing")
    device_job = fakes.add_device(store)
    refused(api.get(f"/v1/searches/{device_job}{path}"), 404, "not_found", device_job)


# Devices


def test_adding_a_device(api: TestClient, store: Store) -> None:
    spec = fakes.device_spec().model_dump(mode="json")
    answer = api.post("/v1/devices", json=spec, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    view = DeviceSchema.model_validate(answer.json())
    assert (view.status, view.profile, view.predictors) == ("queued", None, [])
    assert [s.name for s in view.stages] == ["profile", "measure", "fit"]
    assert api.post("/v1/devices", json=spec, headers={"Idempotency-Key": "k"}).status_code == 200
    refused(api.post("/v1/devices", json=spec), 409, "conflict", view.id)
    fakes.run_log(store, fakes.device_log("0" * 64))
    view = DeviceSchema.model_validate(api.get("/v1/devices/bench").json())
    assert (view.status, view.profile_id, len(view.predictors)) == ("succeeded", fakes.PROFILE.id, 1)
    assert DeviceSchema.model_validate(api.get("/v1/devices").json()[0]) == view
    card = PredictorCardSchema.model_validate(api.get("/v1/predictors?device=bench").json()[0])
    assert card == PredictorCardSchema.model_validate(api.get(f"/v1/predictors/{card.id}").json())
    assert EventPage.model_validate(api.get("/v1/devices/bench/events").json()).last == 10


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"predictor": "flatt"}, "unknown_name"),
        ({"space": {"name": "x"}}, "unknown_name"),
        ({"data": {"name": "x"}}, "unknown_name"),
        ({"name": "a b"}, "invalid_spec"),
        ({"samples": 31}, "invalid_spec"),
    ],
)
def test_invalid_device_is_rejected(api: TestClient, change: dict[str, Any], code: str) -> None:
    refused(api.post("/v1/devices", json={**fakes.device_spec().model_dump(mode="json"), **change}), 422, code)


@pytest.mark.parametrize("path", ["devices/x", "devices/x/events", "predictors/x", "predictors?device=x"])
def test_unknown_device_and_predictor_are_not_found(api: TestClient, path: str) -> None:
    refused(api.get(f"/v1/{path}"), 404, "not_found", "x")


# Events


def test_event_pages(api: TestClient, done: str) -> None:
    first = EventPage.model_validate(api.get(f"/v1/searches/{done}/events?limit=10").json())
    assert [e.seq for e in first.items] == list(range(1, 11))
    next_page = EventPage.model_validate(api.get(f"/v1/searches/{done}/events?after={first.last}").json())
    assert (
        first.items + next_page.items == EventPage.model_validate(api.get(f"/v1/searches/{done}/events").json()).items
    )
    assert next_page.items[-1].body == {
        "kind": "status",
        "before": "running",
        "after": "succeeded",
        "reason": "",
        "by": "",
    }
    assert EventPage.model_validate(api.get(f"/v1/searches/{done}/events?after=99").json()).last == 99


def test_events_of_one_kind(api: TestClient, done: str) -> None:
    everything = EventPage.model_validate(api.get(f"/v1/searches/{done}/events").json()).items
    expected = [e for e in everything if e.body["kind"] == "status"]
    assert [e.body["after"] for e in expected] == ["queued", "running", "succeeded"]
    first = EventPage.model_validate(api.get(f"/v1/searches/{done}/events?kind=status&limit=2").json())
    next_page = EventPage.model_validate(api.get(f"/v1/searches/{done}/events?kind=status&after={first.last}").json())
    assert (first.items, next_page.items) == (expected[:2], expected[2:])


def blocks(text: str) -> list[dict[str, str]]:
    return [dict(line.split(": ", 1) for line in b.splitlines()) for b in text.split("\n\n") if b]


def test_event_stream_ends_with_the_job_and_resumes(api: TestClient, done: str) -> None:
    headers = {"Accept": "text/event-stream"}
    answer = api.get(f"/v1/searches/{done}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    retry, *events, end = blocks(answer.text)
    assert "retry" in retry
    assert [int(e["id"]) for e in events] == list(range(1, 32))
    assert json.loads(events[0]["data"])["body"]["after"] == "queued"
    assert end == {"event": "end", "data": '{"status": "succeeded"}'}
    again = api.get(f"/v1/searches/{done}/events?after=3", headers={**headers, "Last-Event-ID": "29"})
    assert [e.get("id") for e in blocks(again.text)] == [None, "30", "31", None]
    refused(api.get(f"/v1/searches/{done}/events", headers={"Last-Event-ID": "x"}), 422, "invalid_input")


async def collect(stream: AsyncIterator[bytes]) -> str:
    return b"".join([chunk async for chunk in stream]).decode()


def test_event_stream_follows_a_running_job(store: Store) -> None:
    fakes.add_device(store)
    search = fakes.add_search(store)
    lease = store.jobs.claim("worker", 1e9)
    assert lease is not None
    steps: list[Callable[[], Any]] = [
        lambda: fakes.append(store, lease, [StageStarted("train", 0, 1)], 1e9),
        lambda: fakes.append(store, lease, [Progress("train", 1, 2)], 1e9),
        *[lambda: None] * 3,  # nothing has changed for 15 s
        lambda: fakes.append(store, lease, [StageFinished("train", 1.0)], 1e9),
        lambda: store.jobs.finish(lease, "failed", "a reason"),
    ]
    waited: list[float] = []

    async def wait(seconds: float) -> bool:
        waited.append(seconds)
        return steps.pop(0)() is not None

    text = asyncio.run(collect(sse.stream_events(lambda seq, size: store.queries.events(search, seq, size), 0, wait)))
    blocks = text.split("\n\n")
    assert [b.split("\n")[1] for b in blocks if "\nid: " in b] == [f"id: {n}" for n in range(1, 7)]
    assert blocks.count(": ping") == 1
    assert '"failed"' in blocks[-2]
    assert waited == [sse.ADMISSION_S] * 7


async def broken_off(response: Response) -> None:
    """Send a response to a client that has gone."""

    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        raise OSError("the client has gone")

    with contextlib.suppress(OSError, ClientDisconnect):
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)


def test_simultaneous_streams_do_not_exceed_the_limit(store: Store) -> None:
    streams = sse.EventStreams(store.changes, limit=16)
    page: sse.ReadEvents = lambda _seq, _size: (EventPage(items=[], last=0), None)  # noqa: E731
    start = threading.Barrier(64)

    def open_one(_n: int) -> bool:
        start.wait()
        try:
            streams.response("a job", page, 0, "ada", lambda: True)
        except HTTPException:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(open_one, range(64))) == 16


def test_stream_of_a_client_who_is_no_longer_admitted_breaks_off() -> None:
    admitted = [True, True, False]
    waited: list[float] = []

    async def wait(seconds: float) -> bool:
        waited.append(seconds)
        return False

    stream = sse.stream_events(
        lambda _seq, _size: (EventPage(items=[], last=0), None), 0, wait, lambda: admitted.pop(0)
    )
    text = asyncio.run(collect(stream))
    assert "event: end" not in text
    assert admitted == []
    assert sum(waited) == 3 * sse.ADMISSION_S


def test_open_event_streams_are_limited_and_counted(store: Store, tmp_path: Path, done: str) -> None:
    streams = sse.EventStreams(store.changes, limit=2, per_client=1)
    api = TestClient(create_app(Settings(home=tmp_path), store, streams), "http://127.0.0.1")
    url, headers = f"/v1/searches/{done}/events", {"Accept": "text/event-stream"}

    async def hold_streams(*clients: str) -> None:
        """Opens a stream for each client, and asks for one more over HTTP."""
        opened = [
            streams.response(done, lambda *_: (EventPage(items=[], last=0), None), 0, c, lambda: True) for c in clients
        ]
        assert streams.open == len(clients)  # also those of which nothing was sent yet
        answer = await asyncio.to_thread(api.get, url, headers=headers)
        refused(answer, 429, "too_many_streams", "of your" if len(clients) < 2 else "2 event streams")
        for stream in opened:
            await broken_off(stream)

    asyncio.run(hold_streams("testclient"))
    asyncio.run(hold_streams("another", "a third"))
    for _ in range(2):
        assert api.get(url, headers=headers).status_code == 200
    assert streams.open == 0


# Limits and errors


def test_oversized_body_is_rejected(api: TestClient) -> None:
    refused(api.post("/v1/searches", content=b" " * (MAX_BODY + 1), headers=_JSON), 413, "too_large")

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (MAX_BODY // 10)

    refused(api.post("/v1/searches", content=chunks(), headers=_JSON), 413, "too_large")


_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b'"x"', b"[" * 100_000, b'{"seed": NaN}', b"\xff", b'{"seed": ' + b"9" * 5000]
)
def test_malformed_body_is_rejected(api: TestClient, content: bytes) -> None:
    answer = api.post("/v1/searches", content=content, headers=_JSON)
    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code, answer.json()["code"])
    assert answer.json()["code"] in ("invalid_input", "invalid_spec")


def test_values_without_json_representation_are_rejected(api: TestClient, store: Store) -> None:
    fakes.add_device(store)
    bad = json.dumps(body()).replace('"a search"', r'"\ud800"')
    refused(api.post("/v1/searches", content=bad, headers=_JSON), 422, "invalid_spec")
    infinite = json.dumps(body(objectives=[{"name": "accuracy"}, {"name": "latency", "bound": 7.5}]))
    refused(api.post("/v1/searches", content=infinite.replace("7.5", "1e999"), headers=_JSON), 422, "invalid_spec")
    params = json.dumps(body()).replace('"params": {}', r'"params": {"offset": "\ud800"}', 1)
    assert api.post("/v1/searches", content=params, headers=_JSON).status_code == 422


def test_unknown_routes_and_methods_return_error_schema(api: TestClient) -> None:
    refused(api.get("/v1/nothing"), 404, "not_found")
    refused(api.delete("/v1/searches"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InfeasibleBound("x"), 422),
        (NotFound("x"), 404),
        (Conflict("x"), 409),
        (StorageError("x"), 507),
        (MeasurementRefused("x"), 503),
        (HwnasError("x"), 500),
    ],
)
def test_every_error_has_its_status(error: HwnasError, status: int) -> None:
    answer = errors.error_response(error)
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, {"code": error.code, "message": "x"})


def test_unexpected_error_hides_its_message(
    api: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise RuntimeError("password=1234")

    monkeypatch.setattr(store.queries, "devices", broken)
    answer = api.get("/v1/devices")
    refused(answer, 500, "error", "RuntimeError")
    assert "1234" not in answer.text
    assert "1234" in caplog.text


def test_api_imports_neither_torch_nor_ray() -> None:
    code = "import sys, server.api.app, server.store.store; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The OpenAPI document


def test_every_operation_is_described(app: FastAPI) -> None:
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["tags"], (method, path)
            assert operation["description"], (method, path)
            assert operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "ErrorSchema"
            )
