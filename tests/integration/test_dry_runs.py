"""Dry runs over REST: a worker is asked, the request waits, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from nas.core.access import LOCAL, Principal
from nas.core.cost_estimate import CostEstimate, StageCost
from nas.core.errors import NotFound
from nas.core.events import Event, Progress, StageFinished, StageStarted
from nas.core.jobs import DryRunPayload
from nas.core.scheduling import NodeResources
from nas.core.spec import SearchSpec
from nas.schemas.dry_runs import DryRunSchema
from server.api import validate
from server.api.app import create_app
from server.api.dry_runs import time_on_worker
from server.settings import Settings
from server.store.jobs import DRY_RUN_LIFETIME_S
from server.store.models import EventRow, Job
from server.store.store import Store, open_store
from tests.support import fakes

COST = CostEstimate(
    worker="bench",
    seconds=90.0,
    low_s=60.0,
    high_s=150.0,
    gpu_hours=0.0,
    cpu_hours=0.025,
    memory_bytes=10**9,
    evaluations=24,
    confidence="measured",
    stages=(StageCost(stage="train", seconds=90.0, low_s=60.0, high_s=150.0, steps=9, timed=2, unit="steps"),),
)
PRICED: list[Event] = [StageStarted("cost_estimate", 0, 1), StageFinished("cost_estimate", 1.0, asdict(COST))]
URL = "/v1/searches?dry_run=true"


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: fakes.Clock) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        yield opened


@pytest.fixture
def api(store: Store, tmp_path: Path) -> TestClient:
    return TestClient(create_app(Settings(home=tmp_path), store), base_url="http://127.0.0.1")


def body(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = fakes.search_spec(**changes).model_dump(mode="json")
    return record


def dry_run_of(api: TestClient, query: str = "", **changes: Any) -> DryRunSchema:
    answer = api.post(URL + query, json=body(**changes))
    assert answer.status_code == 200, answer.text
    return DryRunSchema.model_validate(answer.json())


def dry_runs(store: Store) -> list[str]:
    with Session(store.jobs._engine) as session:
        return list(session.scalars(select(Job.id).where(Job.kind == "dry_run")))


class Worker:
    """Waits in a thread until there is a dry run, claims a job, and writes ``events`` about it."""

    def __init__(self, store: Store, events: list[Event], status: Any = "succeeded", error: str | None = None) -> None:
        self._store, self._events, self._how = store, events, (status, error)
        self.kind = ""
        self._stop = threading.Event()
        store.jobs.heartbeat("worker", 1)
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.01):
            if not dry_runs(self._store):
                continue
            lease = self._store.jobs.claim("worker", 60.0)
            assert lease is not None
            self.kind = lease.payload.kind
            fakes.append(self._store, lease, self._events, 60.0)
            if self._how[0] is not None:
                self._store.jobs.finish(lease, *self._how)
            return


def test_dry_run_precedes_queued_jobs_and_leaves_no_job(api: TestClient, store: Store) -> None:
    waiting = fakes.add_search(store, priority=100)
    with Worker(store, PRICED) as worker:
        view = dry_run_of(api)
    assert worker.kind == "dry_run"
    assert (view.cost, view.cost_missing) == (COST, None)
    assert view.feasible
    assert dry_runs(store) == []
    assert [s["id"] for s in api.get("/v1/searches").json()["items"]] == [waiting]
    with Session(store.jobs._engine) as session:
        assert set(session.scalars(select(EventRow.job_id).distinct())) <= set(session.scalars(select(Job.id)))


def test_cost_is_returned_before_the_job_finishes(api: TestClient, store: Store) -> None:
    with Worker(store, PRICED, status=None):
        assert dry_run_of(api).cost == COST
    assert dry_runs(store) == []


@pytest.mark.parametrize(
    ("prepare", "query", "changes", "why"),
    [
        (lambda s: None, "", {}, "no worker is connected"),
        (lambda s: s.jobs.heartbeat("worker", 1), "&measure=false", {}, "not requested"),
        (lambda s: s.jobs.heartbeat("worker", 1), "&wait_s=0", {}, "no worker was free within 0 s"),
        (lambda s: s.jobs.heartbeat("worker", 1), "", {"device": "none"}, "infeasible"),
        (lambda s: s.jobs.heartbeat("worker", 1, [NodeResources(2)]), "", {"resources": {"cpus": 4}}, "infeasible"),
    ],
)
def test_reason_for_missing_cost(
    api: TestClient, store: Store, prepare: Any, query: str, changes: dict[str, Any], why: str
) -> None:
    prepare(store)
    view = dry_run_of(api, query, **changes)
    assert view.cost is None
    assert why in (view.cost_missing or "")
    assert view.feasible == ("infeasible" not in why)
    assert bool(view.problems) == ("infeasible" in why)
    assert dry_runs(store) == []


def test_worker_failure_is_the_reason(api: TestClient, store: Store) -> None:
    with Worker(store, PRICED[:1], "failed", "the GPU has no memory left"):
        view = dry_run_of(api)
    assert view.feasible
    assert "the GPU has no memory left" in (view.cost_missing or "")
    assert dry_runs(store) == []


def test_timeout_reports_progress_and_stops_the_worker(api: TestClient, store: Store) -> None:
    leases = []
    store.jobs.heartbeat("worker", 1)
    dry_run = asyncio.run(_held_by_a_worker(store, leases))
    assert "not done within 1 s (timing explore)" in (dry_run.cost_missing or "")
    assert fakes.append(store, leases[0], PRICED[1:]) == "lost"
    assert not store.jobs.finish(leases[0], "succeeded")


async def _held_by_a_worker(store: Store, leases: list[Any]) -> DryRunSchema:
    """A dry run of a second whose worker claims it at the first poll and is still at it at the last."""

    async def begins() -> bool:
        if not leases:
            leases.append(store.jobs.claim("worker", 60.0))
            progress = Progress("cost_estimate", 2, 5, "stages", message="timing explore")
            fakes.append(store, leases[0], [PRICED[0], progress], 60.0)
        return False

    return await _time(fakes.search_spec(), store, 1.0, begins)


async def _time(spec: SearchSpec, store: Store, wait_s: float, disconnected: Any) -> DryRunSchema:
    return await time_on_worker(spec, validate.examine(spec, store, LOCAL), store, LOCAL, wait_s, 60.0, disconnected)


def test_disconnected_client_leaves_no_job(store: Store) -> None:
    store.jobs.heartbeat("worker", 1)
    looks: list[list[str]] = []

    async def disconnected() -> bool:
        looks.append(dry_runs(store))
        return len(looks) == 2

    dry_run = asyncio.run(_time(fakes.search_spec(), store, 60.0, disconnected))
    assert dry_run.cost is None
    assert [len(ids) for ids in looks] == [1, 1]
    assert dry_runs(store) == []


def test_cancelled_request_leaves_no_job(store: Store) -> None:
    store.jobs.heartbeat("worker", 1)

    async def run() -> None:
        started = asyncio.Event()

        async def disconnected() -> bool:
            started.set()
            return False

        task = asyncio.create_task(_time(fakes.search_spec(), store, 60.0, disconnected))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert dry_runs(store) == []


def test_dry_run_is_no_search_and_counts_in_quotas(api: TestClient, store: Store, clock: fakes.Clock) -> None:
    ada = Principal("ada", frozenset({"submit"}))
    spec = fakes.search_spec(resources={"gpus": 2})
    job = store.jobs.submit(spec, None, dry_run=True, space_id="tiny-0-10", by=ada)
    assert store.quotas.view("ada").queued == 1
    with pytest.raises(NotFound):
        store.queries.search(job)
    assert api.post(f"/v1/searches/{job}/cancel").status_code == 404
    lease = store.jobs.claim("worker", 60.0)
    assert lease is not None
    assert (lease.job_id, lease.payload.kind) == (job, "dry_run")
    assert isinstance(lease.payload, DryRunPayload)
    assert lease.payload.search.devices[0].name == "bench"
    clock.pass_(36.0)
    store.jobs.discard(job)
    assert store.quotas.view("ada").gpu_hours_used == pytest.approx(2 * 36.0 / 3600)
    store.jobs.discard(job)  # it is gone already
    search = fakes.add_search(store)
    store.jobs.discard(search)  # no dry run
    assert store.queries.search(search).id == search


def test_abandoned_dry_runs_are_deleted(store: Store, clock: fakes.Clock) -> None:
    job_id = store.jobs.submit(fakes.search_spec(), None, dry_run=True, space_id="tiny-0-10")
    clock.pass_(DRY_RUN_LIFETIME_S + 1.0)
    new = store.jobs.submit(fakes.search_spec(), None, dry_run=True, space_id="tiny-0-10")
    assert dry_runs(store) == [new]
    assert job_id != new


# Checking is quick


def test_space_profile_is_cached_by_predictor(
    api: TestClient, store: Store, clock: fakes.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveyed = []
    real = validate.profile_space

    def counted(*arguments: Any) -> Any:
        surveyed.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(validate, "profile_space", counted)
    validate._profile.cache_clear()
    spaces = [{"name": "tiny", "params": {"offset": n}} for n in (0, 0, 7)]
    for i, space in enumerate(spaces):
        bound = [{"name": "accuracy"}, {"name": "latency"}, {"name": "params", "bound": 130.0 + 10 * i}]
        answer = dry_run_of(api, "&measure=false", space=space, objectives=bound)
        assert answer.ranges["params"][0] == 100.0 + 10 * space["params"]["offset"]  # type: ignore[index]
    assert len(surveyed) == 2
    before = dry_run_of(api, "&measure=false").ranges["predicted_ms"]
    assert len(surveyed) == 2
    clock.pass_(1.0)
    store.jobs.submit(fakes.device_spec(), None)
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes((2.0, 2.0, 2.0)))))
    after = dry_run_of(api, "&measure=false").ranges["predicted_ms"]
    assert len(surveyed) == 3
    assert after[1] > before[1]


def test_budget_beyond_the_space_is_rejected(api: TestClient, store: Store) -> None:
    refused = api.post("/v1/searches", json=body(budget={"evaluations": 53}))
    assert refused.status_code == 422
    assert "at most 52" in refused.json()["message"]
    assert api.post("/v1/searches", json=body(budget={"evaluations": 52})).status_code == 201


def test_inherited_candidates_count_against_a_small_space(api: TestClient, store: Store) -> None:
    parent = fakes.add_search(store)
    fakes.run_log(store, fakes.search_log(store.blobs.put(b"abc")))  # three networks of the search, two of the baseline
    assert api.post(f"/v1/searches/{parent}/extend", json={"evaluations": 49}).status_code == 201
    refused = api.post(f"/v1/searches/{parent}/extend", json={"evaluations": 50})
    assert refused.status_code == 422
    assert "at most 49" in refused.json()["message"]
