"""Devices with an agent: jobs that wait for one, its tasks and leases, the agent itself, and two of them for real."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from agent import main as agent_main
from agent.main import Agent, MeasuredWay
from agent.service import ServiceClient, ServiceError
from nas.blobs import open_blobs
from nas.core.access import LOCAL, Principal
from nas.core.arch import Arch
from nas.core.cost_estimate import StageCost
from nas.core.device import DeviceProfile, MeasurementProtocol, NotMeasuredYet, changes, verification_status
from nas.core.errors import AgentBusy, Conflict, Forbidden, HwnasError, InvalidInput, MeasurementRefused, NotFound
from nas.core.events import MeasurementsWanted, SearchState, StageFinished, StageStarted
from nas.core.jobs import AgentResults, Lease, LeaseToken, MeasurementFailure, MeasurementKey, OnboardingPayload
from nas.core.scheduling import NodeResources
from nas.core.spec import SearchSpec
from nas.core.timing import MeasurementTask, Sitting, Timing, Visit
from nas.engine import estimate_search_cost
from nas.schemas.devices import DeviceSchema
from predictors.families.bayesian_linear import BayesianLinear
from predictors.measurement.judging import judge
from predictors.measurement.machine import canary_model
from server.api.app import create_app
from server.settings import Settings
from server.store.database import reading
from server.store.measurements import LEASE_S, MAX_ATTEMPTS
from server.store.models import MeasurementRow
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.databases import postgres_url
from tests.support.paths import ROOT
from tests.support.serving import serving
from workers import runner
from workers.attempt import AttemptOutcome
from workers.dispatcher import Dispatcher
from workers.placement import Node
from workers.remote import RemoteMeasurer

PI = DeviceProfile("pi", "aarch64", "a small one", 4, "onnxruntime", "1.0", "linux", canary_ms=0.2, source="agent")
ADA, BOB = (Principal(owner, frozenset({"device"})) for owner in ("ada", "bob"))


def timing_of(ms: float) -> Timing:
    """Three sittings in which a network takes so long."""
    visit = Visit((ms, 1.01 * ms, 1.02 * ms), (0.2,) * 3, (), 0.2)
    return Timing((Sitting((visit,) * 4, 12),) * 3)


def with_visit(visits: int = 1, **changes: Any) -> dict[str, Any]:
    """A timing as JSON, some of whose visits are changed."""
    record: dict[str, Any] = json.loads(json.dumps(TIMING.as_json()))
    record["sittings"][0]["visits"] = [{**record["sittings"][0]["visits"][0], **changes}] * visits
    return record


TIMING = timing_of(1.0)
MEASURED = fakes.measurement(1.0)


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: fakes.Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    url = f"sqlite:///{tmp_path}/db"
    if request.param == "postgresql":
        url = postgres_url(request.getfixturevalue("postgres"), f"agents_{secrets.token_hex(4)}")
    with open_store(url, str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        yield opened


def register(store: Store, profile: DeviceProfile = PI, instance: str = "one") -> None:
    assert store.measurements.register(profile.name, instance, profile, {"python": "3"}, LOCAL) is not None


def want(*networks: str, profile: DeviceProfile = PI) -> MeasurementsWanted:
    blobs = {n: hashlib.sha256(n.encode()).hexdigest() for n in networks}
    return MeasurementsWanted("measure", profile, blobs)


def onboarding(store: Store, name: str = "pi") -> str:
    spec = fakes.device_spec(name=name, source="agent")
    return store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))


def parked(store: Store, *networks: str, name: str = "pi") -> tuple[str, Lease]:
    """An onboarding that waits for its agent."""
    job = onboarding(store, name)
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    assert lease.job_id == job
    assert fakes.append(store, lease, [StageStarted("measure", 1, 3), want(*networks)]) == "stop"
    return job, lease


def claim(store: Store, instance: str = "one", name: str = "pi") -> MeasurementTask:
    task = store.measurements.claim(name, instance, LOCAL)
    assert task is not None
    return task


def finish(store: Store, task: MeasurementTask, name: str = "pi") -> None:
    store.measurements.finish(name, task.id, task.lease, MEASURED, TIMING, LOCAL)


def rows(store: Store) -> list[tuple[str, str, int]]:
    """(network, status, attempts) of all tasks."""
    with reading(store.jobs._engine) as session:
        columns = (MeasurementRow.network, MeasurementRow.status, MeasurementRow.attempts)
        return [tuple(row) for row in session.execute(select(*columns).order_by(MeasurementRow.network))]  # type: ignore[misc]


# Jobs that wait


def test_job_waits_for_its_agent_and_receives_the_results(store: Store, clock: fakes.Clock) -> None:
    register(store)
    job, lease = parked(store, "a", "b")
    view = store.queries.device("pi")
    assert (view.id, view.status, view.waiting) == (job, "queued", "waiting for device pi: 0 of 2 networks measured")
    assert store.jobs.claim("worker", 100.0) is None
    assert fakes.append(store, lease, []) == "lost"
    first = claim(store)
    finish(store, first)
    assert store.jobs.claim("worker", 100.0) is None
    assert store.queries.device("pi").waiting == "waiting for device pi: 1 of 2 networks measured"
    clock.pass_(7200.0)
    assert "whose agent was last seen 2 hours ago" in str(store.queries.device("pi").waiting)
    finish(store, claim(store))
    assert store.measurements.claim("pi", "one", LOCAL) is None
    again = store.jobs.claim("worker", 100.0)
    assert again is not None
    assert again.job_id == job
    assert again.payload.measurements == {MeasurementKey(PI.name, n, PI.protocol.id): MEASURED for n in ("a", "b")}
    assert store.jobs.leases_of("worker") == [LeaseToken(job, again.token)]


def test_onboarding_goes_on_with_what_its_agent_measured_in_time(store: Store, clock: fakes.Clock) -> None:
    register(store)
    spec = fakes.device_spec(name="pi", source="agent", max_hours=0.01)  # 36 s
    store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    clock.pass_(5.0)
    assert fakes.append(store, lease, [StageStarted("measure", 1, 3), want("a", "b", "c", "d")]) == "stop"
    for seconds in (16.0, 14.0, 10.0):  # 5 s on the worker, and 35, then 45
        assert store.jobs.claim("worker", 100.0) is None
        clock.pass_(3600.0)  # while the agent is off
        task = claim(store)
        clock.pass_(seconds)
        finish(store, task)
    assert store.measurements.claim("pi", "one", LOCAL) is None
    again = store.jobs.claim("worker", 100.0)
    assert again is not None
    assert isinstance(again.payload, OnboardingPayload)
    assert {key.network for key in again.payload.measurements} == {"a", "b", "c"}
    assert again.payload.busy_seconds == pytest.approx(45.0)


def test_lost_response_to_the_parking_append(store: Store) -> None:
    register(store)
    _, lease = parked(store, "a")
    events = [StageStarted("measure", 1, 3), want("a")]
    again = store.jobs.append(lease, 1, fakes.records(events), 10.0)
    assert again == "stop"
    assert rows(store) == [("a", "queued", 0)]


def test_network_with_a_result_is_not_measured_again(store: Store) -> None:
    register(store)
    job, _ = parked(store, "a")
    finish(store, claim(store))
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    assert fakes.append(store, lease, [want("a", "b")]) == "stop"
    assert rows(store) == [("a", "done", 1), ("b", "queued", 0)]
    assert claim(store).network == "b"
    other = replace(PI, protocol=replace(PI.protocol, precision="int8"))
    finish(store, claim(store))
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    assert fakes.append(store, lease, [want("a", profile=other)]) == "stop"
    assert claim(store).profile.protocol.precision == "int8"
    assert store.queries.device("pi").id == job


def test_waiting_for_an_agent_is_no_crash_and_other_jobs_run(store: Store) -> None:
    register(store)
    job, _ = parked(store, "a")
    for _ in range(7):
        finish(store, claim(store))
        lease = store.jobs.claim("worker", 100.0)
        assert lease is not None
        assert lease.job_id == job
        fakes.append(store, lease, [want(f"n{lease.token}")])
    search = fakes.add_search(store)
    passing = store.jobs.claim("worker", 100.0)
    assert passing is not None
    assert passing.job_id == search


def test_pause_cancel_and_retry_of_a_waiting_job(store: Store) -> None:
    register(store)
    job, _ = parked(store, "a", "b")
    store.jobs.pause(job)
    assert store.measurements.claim("pi", "one", LOCAL) is None  # nobody measures for a paused job
    store.jobs.resume(job)
    task = claim(store)
    store.jobs.cancel(job)
    assert not store.measurements.renew("pi", task.id, task.lease, LOCAL)
    with pytest.raises(Conflict, match="no longer holds"):
        finish(store, task)
    assert {status for _, status, _ in rows(store)} <= {"queued", "leased"}
    assert store.measurements.claim("pi", "one", LOCAL) is None
    store.jobs.retry(job)
    finish(store, claim(store))
    finish(store, claim(store))
    assert store.jobs.claim("worker", 100.0) is not None


def test_retry_requeues_failed_measurements(store: Store) -> None:
    register(store)
    job, _ = parked(store, "a")
    task = claim(store)
    store.measurements.finish("pi", task.id, task.lease, MeasurementFailure("cannot load"), None, LOCAL)
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    measure = RemoteMeasurer(lease.payload.measurements, store.blobs)
    with pytest.raises(MeasurementRefused, match="device 'pi' could not measure a: cannot load"):
        list(measure([b""], PI, ["a"]))
    store.jobs.finish(lease, "failed", "cannot load")
    store.jobs.retry(job)
    assert store.jobs.claim("worker", 100.0) is None
    finish(store, claim(store))


def test_measurement_requests_need_a_device_with_an_agent(store: Store) -> None:
    onboarding(store)
    register(store)
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    with pytest.raises(InvalidInput, match="a device with an agent"):
        fakes.append(store, lease, [want("a", profile=fakes.PROFILE)])


def test_models_of_open_tasks_are_not_garbage(store: Store, clock: fakes.Clock) -> None:
    register(store)
    parked(store, "a")
    blob = store.blobs.put(b"a")
    surplus = store.blobs.put(b"surplus")
    for path in (store.blobs.root).glob("??/*"):  # type: ignore[union-attr]
        os.utime(path, (0, 0))
    store.collect()
    assert store.blobs.get(blob) == b"a"
    with pytest.raises(NotFound):
        store.blobs.get(surplus)


# Leases


def test_device_measures_one_network_at_a_time(store: Store, clock: fakes.Clock) -> None:
    register(store)
    parked(store, "a", "b")
    first = claim(store)
    again = claim(store)  # the same process: the answer to its claim was lost
    assert (again.id, again.network) == (first.id, first.network)
    assert again.lease != first.lease
    with pytest.raises(Conflict, match="another process measures as the agent of device 'pi'"):
        claim(store, "two")
    with pytest.raises(AgentBusy, match="another process measures"):
        register(store, instance="two")
    clock.pass_(LEASE_S + 1)
    register(store, instance="two")
    assert claim(store, "two").network == first.network
    assert [r for r in rows(store) if r[1] == "leased"] == [("a", "leased", 3)]


def test_late_result_writes_nothing(store: Store, clock: fakes.Clock) -> None:
    register(store)
    parked(store, "a")
    late = claim(store)
    assert store.measurements.renew("pi", late.id, late.lease, LOCAL)
    clock.pass_(LEASE_S + 1)
    assert not store.measurements.renew("pi", late.id, late.lease, LOCAL)
    now = claim(store)
    with pytest.raises(Conflict, match="nothing was stored"):
        finish(store, late)
    assert rows(store) == [("a", "leased", 2)]
    finish(store, now)
    finish(store, now)  # the answer was lost; the same again
    with pytest.raises(Conflict):
        finish(store, late)
    with pytest.raises(Conflict):
        store.measurements.model("pi", now.id, now.lease, LOCAL)
    assert rows(store) == [("a", "done", 2)]


def test_renewal_keeps_the_lease(store: Store, clock: fakes.Clock) -> None:
    register(store)
    parked(store, "a")
    task = claim(store)
    for _ in range(5):
        clock.pass_(0.8 * LEASE_S)
        assert store.measurements.renew("pi", task.id, task.lease, LOCAL)
    finish(store, task)


def test_network_that_crashes_its_agent_fails_eventually(store: Store, clock: fakes.Clock) -> None:
    register(store)
    parked(store, "a", "b")
    for _ in range(MAX_ATTEMPTS):
        assert claim(store).network == "a"
        clock.pass_(LEASE_S + 1)
    assert claim(store).network == "b"
    assert rows(store) == [("a", "failed", MAX_ATTEMPTS), ("b", "leased", 1)]


def test_stopped_agent_releases_its_task(store: Store) -> None:
    register(store)
    parked(store, "a")
    task = claim(store)
    store.measurements.release("pi", task.id, task.lease, LOCAL)
    assert rows(store) == [("a", "queued", 0)]
    register(store, instance="two")
    assert claim(store, "two").network == "a"


def test_agent_belongs_to_its_first_owner(store: Store) -> None:
    assert store.measurements.register("pi", "one", PI, {}, ADA) is not None
    with pytest.raises(Forbidden, match="belongs to another owner"):
        store.measurements.register("pi", "two", PI, {}, BOB)
    with pytest.raises(NotFound, match="no agent has registered as 'pi'"):
        store.measurements.claim("pi", "two", BOB)
    assert store.measurements.claim("pi", "one", ADA) is None
    with pytest.raises(Forbidden, match="'bench' belongs to local"):
        store.measurements.register("bench", "one", replace(PI, name="bench"), {}, ADA)
    with pytest.raises(Conflict, match="choose another name"):
        store.measurements.register("bench", "one", replace(PI, name="bench"), {}, LOCAL)
    assert [(r.owner, r.action, r.target) for r in store.audit.page(1).items] == [("ada", "register agent", "pi")]


def test_machine_keeps_its_canary_time(store: Store) -> None:
    unknown = replace(PI, canary_ms=None)
    assert store.measurements.register("pi", "one", unknown, {}, LOCAL) is None
    register(store)
    for later in (unknown, replace(PI, canary_ms=0.5)):
        registered_profile = store.measurements.register("pi", "two", later, {}, LOCAL)
        assert registered_profile is not None
        assert registered_profile.canary_ms == 0.2
    newer = replace(unknown, runtime_version="2.0")
    assert store.measurements.register("pi", "two", newer, {}, LOCAL) is None
    [agent] = store.queries.agents()
    assert (agent.profile.runtime_version, agent.away, agent.waiting, agent.measuring) == ("1.0", False, 0, None)


# A whole onboarding, from the queue through the dispatcher and the runner


class Inline:
    """A cluster that runs the real runner in the dispatcher's own thread."""

    elastic = False

    def __init__(self, blobs: str) -> None:
        self.blobs = blobs
        self.runs = 0

    def nodes(self) -> list[Node]:
        return [Node("here", NodeResources(8), NodeResources(8))]

    def start(self, lease: Lease, required: Any, node: Node) -> InlineJob:
        self.runs += 1
        return InlineJob(runner.run_job(lease.payload, self.blobs, lease.events))


class InlineJob:
    has_started = True

    def __init__(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        self.batches = batches

    def poll(self, timeout_s: float) -> list[dict[str, Any]] | AttemptOutcome:
        try:
            return next(self.batches, None) or AttemptOutcome("succeeded")
        except HwnasError as error:
            return AttemptOutcome("failed", str(error))

    def kill(self) -> None:
        pass

    def dump_stacks(self) -> str:
        return ""


class Tiny:
    """A supernet whose subnets are their architectures."""

    def eval(self) -> Tiny:
        return self

    def subnet(self, arch: Arch) -> Arch:
        return arch


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_waiting_onboarding_holds_no_worker_and_exports_each_model_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported: list[Arch] = []

    def export(module: Arch, *_: object) -> bytes:
        exported.append(module)
        return bytes(module.genes)

    monkeypatch.setattr(fakes.TinySpace, "supernet", lambda *_: Tiny())
    monkeypatch.setitem(fakes.PLUGINS["nas.predictors"], "bayesian_linear", BayesianLinear)
    monkeypatch.setattr(runner, "to_onnx_for_timing", export)
    register(store)
    spec = fakes.device_spec(name="pi", source="agent", predictor="bayesian_linear", samples=40)
    job = store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    cluster = Inline(str(tmp_path / "blobs"))
    dispatcher = Dispatcher(store.jobs, cluster, "d", poll_seconds=0.01, lease_seconds=100.0)
    dispatcher.start()
    try:
        until(lambda: store.queries.agents()[0].waiting == 40)
        until(lambda: store.jobs.leases_of("d") == [])  # nobody holds anything meanwhile
        assert store.queries.device("pi").waiting == "waiting for device pi: 0 of 40 networks measured"
        for _ in range(40):
            task = claim(store)
            genes = list(store.blobs.get(store.measurements.model("pi", task.id, task.lease, LOCAL)))
            timing = timing_of(1.0 + sum(genes))
            store.measurements.finish("pi", task.id, task.lease, judge(timing, PI), timing, LOCAL)
        until(lambda: store.queries.device("pi").status == "succeeded")
    finally:
        dispatcher.stop()
    view = store.queries.device("pi")
    assert (view.id, view.attempts, cluster.runs) == (job, 2, 2)
    assert len(exported) == len(set(exported)) == 40
    [card] = view.predictors
    assert (card.n, card.profile) == (40, PI.id)
    assert card.mape < 0.1
    states = [e.body["after"] for e in store.queries.events(job, 0, 1000, "status")[0].items]
    assert states == ["queued", "running", "queued", "running", "succeeded"]


# What has changed


def test_stale_profile_reports_the_changes(store: Store, clock: fakes.Clock) -> None:
    register(store)
    onboarding(store)
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes()), profile=PI))
    assert store.queries.device("pi").stale == []
    newer = replace(PI, runtime_version="2.0", driver="microcode 0x2")
    store.measurements.register("pi", "two", newer, {}, LOCAL)
    assert store.queries.device("pi").stale == ["runtime version: 1.0, now 2.0", "driver: unknown, now microcode 0x2"]

    assert store.queries.device("bench").stale == []
    current_profile = replace(fakes.PROFILE, name="host", protocol=MeasurementProtocol())
    store.jobs.heartbeat("elsewhere", 1, machine=replace(current_profile, processor="another", runtime_version="3.0"))
    assert store.queries.device("bench").stale == []  # nobody is there who knows
    store.jobs.heartbeat("worker", 1, machine=replace(current_profile, os="linux 7"))
    assert store.queries.device("bench").stale == ["os: linux, now linux 7"]
    store.jobs.heartbeat("other", 1, machine=current_profile)
    assert store.queries.device("bench").stale == []
    clock.pass_(3600.0)
    assert store.queries.device("bench").stale == []


def test_profile_of_an_older_protocol_is_stale(store: Store) -> None:
    record = PI.as_json()
    record["protocol"] = {"version": 2, "threads": 1, "batch": 1, "rounds": 9, "block_ms": 12.0, "max_drift": 0.35}
    record.pop("driver")
    record.pop("noise")
    old = DeviceProfile.from_json({**record, "source": "agent"})
    assert changes(old, PI) == ["protocol version: 2, now 3"]


# The measurer of a worker


def test_worker_requests_missing_measurements_once(tmp_path: Path) -> None:
    blobs = open_blobs(str(tmp_path))
    without_results = RemoteMeasurer({}, blobs)
    with pytest.raises(NotMeasuredYet, match="has to measure 2 networks") as refusal:
        list(without_results([b"x", b"y"], PI, ["a", "b"]))
    assert blobs.get(refusal.value.networks["b"]) == b"y"
    measured_a = RemoteMeasurer({MeasurementKey(PI.name, "a", PI.protocol.id): MEASURED}, blobs)
    assert measured_a.has_result("a", PI)
    assert not measured_a.has_result("a", replace(PI, protocol=MeasurementProtocol(threads=2)))
    with pytest.raises(NotMeasuredYet) as refusal:
        list(measured_a([b"", b"y"], PI, ["a", "b"]))
    assert list(refusal.value.networks) == ["b"]
    assert list(measured_a([b""], PI, ["a"])) == [MEASURED]


def test_worker_requests_nothing_more_once_the_time_is_over(tmp_path: Path) -> None:
    results: AgentResults = {MeasurementKey(PI.name, "a", PI.protocol.id): MEASURED}
    measure = RemoteMeasurer(results, open_blobs(str(tmp_path)), "the time is over")
    measured, unmeasured = measure([b"", b""], PI, ["a", "b"])
    assert measured == MEASURED
    assert (unmeasured.median_ms, unmeasured.refused) == (None, "the time is over")


def test_dry_run_does_not_wait_for_an_agent(tmp_path: Path) -> None:
    """It says that the stage that measures cannot be timed, and estimates the others."""

    def estimate_cost(*_: object) -> StageCost:
        raise NotMeasuredYet(PI, {"a": "0" * 64})

    stages: Any = [
        SimpleNamespace(name="train", estimate_cost=lambda *_: StageCost.zero("train", "known")),
        SimpleNamespace(name="verify", estimate_cost=estimate_cost),
    ]
    data = SimpleNamespace(content_hash="0" * 64)
    problem: Any = SimpleNamespace(spec=SearchSpec(), data=data, supernet_data=None)
    resources: Any = SimpleNamespace(clock=lambda: 0.0, torch_device="cpu", worker="w")
    last = list(estimate_search_cost(problem, stages, resources, SearchState()))[-1]
    assert isinstance(last, StageFinished)
    assert last.result["confidence"] == "partial"
    train, verify = last.result["stages"]
    assert (train["seconds"], verify["seconds"]) == (0.0, None)
    assert "the agent of device 'pi' measures for it" in verify["note"]


# The agent against the API


def service(store: Store, tmp_path: Path, **changes: Any) -> TestClient:
    app = create_app(Settings(home=tmp_path, **changes), store)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


class MeasuringStub:
    """Stands in for the machine: what it measures, and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models: list[bytes] = []
        self.fails: str | None = None
        self.profiled = 0
        monkeypatch.setattr(agent_main, "describe_machine", lambda *_: replace(PI, canary_ms=None))
        monkeypatch.setattr(agent_main, "profile_machine", self.profile)
        monkeypatch.setattr(agent_main, "time_isolated", self.time)

    def profile(self, *_: object) -> DeviceProfile:
        self.profiled += 1
        return PI

    def time(self, models: list[bytes], profile: DeviceProfile, **_: object) -> Iterator[Timing]:
        self.models += models
        if self.fails is not None:
            raise MeasurementRefused(self.fails)
        return iter([TIMING])


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> MeasuringStub:
    return MeasuringStub(monkeypatch)


def agent_of(
    api: TestClient, token: str | None = None, change: Callable[..., Any] | None = None, name: str = "pi"
) -> Agent:
    log_lines: list[str] = []
    stopping = threading.Event()

    def handle(request: httpx.Request) -> httpx.Response:
        answer = api.request(
            request.method,
            str(request.url),
            content=request.content,
            headers=dict(request.headers),
            follow_redirects=False,
        )
        response = httpx.Response(
            answer.status_code, content=answer.content, headers={"content-type": "application/json"}
        )
        return response if change is None else change(request, response)

    client = ServiceClient("http://127.0.0.1", token, name, stopping, log_lines.append, httpx.MockTransport(handle))
    return Agent(client, name, MeasuredWay(), stopping, 0.0)


def wait_for_models(store: Store, *networks: str) -> str:
    job, _ = parked(store, *networks)
    for network in networks:
        store.blobs.put(network.encode())
    return job


def test_agent_measures_its_tasks(store: Store, tmp_path: Path, measuring: MeasuringStub) -> None:
    api = service(store, tmp_path)
    agent = agent_of(api)
    agent.register()
    assert measuring.profiled == 1
    wait_for_models(store, "a", "b")
    agent.run(tasks=2)
    assert measuring.models == [b"a", b"b"]
    assert measuring.profiled == 1  # the second registration found the canary's time
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    measured = list(lease.payload.measurements.values())
    assert [m.median_ms for m in measured] == [pytest.approx(1.0)] * 2
    assert measured[0].p99_ms == pytest.approx(1.02)
    assert measured[0].profile == replace(PI, protocol=MeasurementProtocol()).id


def test_damaged_model_is_not_measured(store: Store, tmp_path: Path, measuring: MeasuringStub) -> None:
    requested_models = []

    def damage(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        if request.url.path.endswith("/model"):
            requested_models.append(request)
            return httpx.Response(200, content=b"something else")
        return answer

    api = service(store, tmp_path)
    agent_of(api).register()
    wait_for_models(store, "a")
    agent_of(api, change=damage).run(tasks=1)
    assert measuring.models == []
    assert len(requested_models) == 2
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    [result] = lease.payload.measurements.values()
    expected, actual = (hashlib.sha256(data).hexdigest() for data in (b"a", b"something else"))
    assert result == MeasurementFailure(f"the model came damaged: expected sha256 {expected}, got {actual}")


def test_agent_retries_lost_requests_without_duplicates(
    store: Store, tmp_path: Path, measuring: MeasuringStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other request is lost on its way there or back."""
    monkeypatch.setattr("agent.service.RETRY_PAUSES_S", (0.0,))
    count = 0

    def shaky(request: httpx.Request, answer: httpx.Response) -> httpx.Response:
        nonlocal count
        count += 1
        if count % 2:
            raise httpx.ReadError("the cable", request=request)
        return answer

    api = service(store, tmp_path)
    agent_of(api, change=shaky).register()
    wait_for_models(store, "a", "b", "c")
    agent_of(api, change=shaky).run(tasks=3)
    assert [(network, status) for network, status, _ in rows(store)] == [(n, "done") for n in "abc"]
    assert sorted(measuring.models) == [b"a", b"b", b"c"]


def test_agent_needs_a_token_with_the_device_scope(store: Store, tmp_path: Path, measuring: MeasuringStub) -> None:
    api = service(store, tmp_path, require_tokens=True)
    for scopes, status in (((), 401), (("read", "submit"), 403)):
        token = store.tokens.create("ada", "t", scopes, None, LOCAL)[1] if scopes else "hwnas_0_0"
        with pytest.raises(ServiceError) as refused:
            agent_of(api, token).run(tasks=1)
        assert refused.value.status == status
    _, token = store.tokens.create("ada", "t", ("device",), None, LOCAL)
    agent_of(api, token).register()
    assert store.queries.agents()[0].owner == "ada"
    _, other = store.tokens.create("bob", "t", ("device",), None, LOCAL)
    with pytest.raises(ServiceError, match="belongs to another owner"):
        agent_of(api, other).register()


def test_agent_waits_while_another_process_measures_and_fails_on_other_conflicts(
    store: Store, tmp_path: Path, measuring: MeasuringStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = service(store, tmp_path)
    register(store)
    wait_for_models(store, "a")
    task = claim(store)
    agent = agent_of(api)
    with pytest.raises(ServiceError) as busy:
        agent._service.claim("two")
    assert (busy.value.status, busy.value.code) == (409, "agent_busy")
    waits: list[float] = []
    monkeypatch.setattr(agent, "_wait_while_busy", lambda _error: (waits.append(0.0), finish(store, task)))
    agent.register()  # once the other process has finished its task
    assert len(waits) == 1
    with pytest.raises(ServiceError, match="already exists and has no agent") as conflict:
        agent_of(api, name="bench").register()
    assert conflict.value.code == "conflict"


def test_onboarding_without_an_agent_explains_how_to_start_one(
    store: Store, tmp_path: Path, measuring: MeasuringStub
) -> None:
    api = service(store, tmp_path)
    spec = fakes.device_spec(name="pi", source="agent").model_dump(mode="json")
    answer = api.post("/v1/devices", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
    assert "HWNAS_TOKEN=TOKEN nas-agent --server ADDRESS --name pi" in answer.json()["message"]
    assert "--token" not in answer.json()["message"]  # other users of a machine see the options of its processes
    agent_of(api).register()
    device = DeviceSchema.model_validate(api.post("/v1/devices", json=spec).json())
    assert device.agent is not None
    assert (device.agent.profile.source, device.agent.away) == ("agent", False)
    answer = api.post("/v1/devices", json={**spec, "source": "worker"})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "has an agent" in answer.json()["message"]


def test_malformed_results_are_rejected(store: Store, tmp_path: Path, measuring: MeasuringStub) -> None:
    api = service(store, tmp_path)
    agent_of(api).register()
    wait_for_models(store, "a")
    task = api.post("/v1/agents/pi/claim", json={"instance": "one"}).json()["task"]
    good = TIMING.as_json()
    for wrong in (
        {},
        {"timing": good, "error": "both"},
        {"timing": {**good, "sittings": good["sittings"][:1]}},
        {"timing": with_visit(network_ms=[-1.0] * 3)},
        {"timing": with_visit(network_ms=[1.0] * 10_000, canary_ms=[1.0] * 10_000, visits=6)},
        {"timing": with_visit(level_ms=0.0)},
        {"timing": with_visit(canary_ms=[1.0])},
        {"timing": {**good, "median_ms": 0.1}},
    ):
        answer = api.post(f"/v1/agents/pi/tasks/{task['id']}/result", json={"lease": task["lease"], **wrong})
        assert answer.status_code == 422, (wrong, answer.text)
    huge = b'{"lease": "' + b"x" * 2**21 + b'"}'
    assert api.post(f"/v1/agents/pi/tasks/{task['id']}/result", content=huge).status_code == 413
    assert rows(store) == [("a", "leased", 1)]
    done = {"lease": task["lease"], "timing": good}
    assert api.post(f"/v1/agents/pi/tasks/{task['id']}/result", json=done).status_code == 200
    assert api.get(f"/v1/agents/pi/tasks/{task['id']}/model?lease={task['lease']}").status_code == 409
    assert api.get("/v1/agents/pi/tasks/none/model?lease=x").status_code == 404


def test_network_too_close_to_call_is_requested_once_more(tmp_path: Path) -> None:
    """A device elsewhere measures it a second time, and both results count together."""
    from nas.blobs import open_blobs

    blobs = open_blobs(str(tmp_path))
    once = {MeasurementKey(PI.name, "a", PI.protocol.id): judge(timing_of(1.0), PI)}
    far, close = [1.5], [1.005]
    [measured] = RemoteMeasurer(once, blobs)([b"x"], PI, ["a"], far)
    assert verification_status(measured, far[0]) == "verified"
    with pytest.raises(NotMeasuredYet) as refusal:
        list(RemoteMeasurer(once, blobs)([b"x"], PI, ["a"], close))
    assert list(refusal.value.networks) == ["a.again"]
    twice = once | {MeasurementKey(PI.name, "a.again", PI.protocol.id): judge(timing_of(1.0), PI)}
    [both] = RemoteMeasurer(twice, blobs)([b"x"], PI, ["a"], close)
    assert len(both.samples_ms) == 2 * len(measured.samples_ms)


# Real processes

BLOCKER = """
import sys
class Block:
    names = {names!r}
    def find_spec(self, name, path=None, target=None):
        if name in self.names or name.partition(".")[0] in self.names:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
from dataclasses import replace
from time import perf_counter
from agent import main as agent
from predictors.measurement.machine import canary_model
from predictors.runtimes.onnx_runtime import load
def profile_machine(name, protocol, source, execution):  # at once; a canary that a busy machine reaches soon
    profile = agent.describe_machine(name, protocol, source, execution)
    run = load(canary_model(), execution).run
    def canary_ms():
        start = perf_counter()
        run()
        return 1e3 * (perf_counter() - start)
    return replace(profile, canary_ms=1.3 * min(canary_ms() for _ in range(300)))
agent.profile_machine = profile_machine
agent.main({words!r})
"""
FORBIDDEN = {"torch", "pydantic", "sqlalchemy", "onnx", "scipy", "sklearn", "ray", "yaml", "fastapi", "nicegui"}
FORBIDDEN_PACKAGES = {"server", "workers", "search_spaces", "nas.core.spec", "nas.schemas"}


class Running:
    """An agent in a process of its own, in which nothing can be imported that a plain machine has not."""

    def __init__(self, url: str, name: str, threads: int, *more: str) -> None:
        words = ["--server", url, "--name", name, "--threads", str(threads), "--poll", "0.05", *more]
        code = BLOCKER.format(names=FORBIDDEN | FORBIDDEN_PACKAGES, words=words)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def kill(self, number: int = signal.SIGKILL) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]


@contextmanager
def running(url: str, name: str, threads: int, *more: str) -> Iterator[Running]:
    agent = Running(url, name, threads, *more)
    try:
        yield agent
    finally:
        if agent.process.poll() is None:
            agent.kill()


def until(condition: Callable[[], Any], seconds: float = 180.0) -> Any:
    """What ``found`` gives once it gives anything."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < end:
        if result := condition():
            return result
        pause.wait(0.05)
    raise AssertionError("nothing happened")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_two_agents_of_which_one_is_killed_while_measuring(store: Store, tmp_path: Path, clock: fakes.Clock) -> None:
    """Real agents, real models, a real network; the leases' clock is moved by hand, and the canary's time is given."""
    model = store.blobs.put(canary_model())
    networks = ["n0", "n1"]
    with (
        serving(create_app(Settings(home=tmp_path), store)) as url,
        running(url, "one", 1) as one,
        running(url, "two", 2),
    ):
        until(lambda: len(store.queries.agents()) == 2)
        profiles = {a.name: a.profile for a in store.queries.agents()}
        assert {name: p.protocol.threads for name, p in profiles.items()} == {"one": 1, "two": 2}
        assert len({p.id for p in profiles.values()}) == 2
        jobs = {}
        for name, p in profiles.items():
            jobs[name] = onboarding(store, name)
            clock.pass_(1.0)
            lease = store.jobs.claim("worker", 1000.0)
            assert lease is not None
            event = MeasurementsWanted("measure", p, dict.fromkeys(networks, model))
            assert fakes.append(store, lease, [event], 1000.0) == "stop"

        def of(name: str) -> list[tuple[str, int]]:
            with reading(store.jobs._engine) as session:
                mine = select(MeasurementRow.status, MeasurementRow.attempts).where(MeasurementRow.device == name)
                return [(row[0], row[1]) for row in session.execute(mine.order_by(MeasurementRow.position))]

        until(lambda: ("leased", 1) in of("one"))
        one.kill()
        lost = of("one").index(("leased", 1))
        until(lambda: {status for status, _ in of("two")} == {"done"})  # the other goes on
        with running(url, "one", 1) as again:
            clock.pass_(LEASE_S + 1)
            until(lambda: {status for status, _ in of("one")} == {"done"})
            assert "stopped" in again.kill(signal.SIGTERM)
            assert again.process.returncode == 0
        assert [attempts for _, attempts in of("one")] == [2 if i == lost else 1 for i in range(2)]
        for name, p in profiles.items():
            lease = store.jobs.claim("worker", 1000.0)
            assert lease is not None
            assert lease.job_id == jobs[name]
            results = lease.payload.measurements
            assert set(results) == {MeasurementKey(name, n, p.protocol.id) for n in networks}
            assert all(m.profile == p.id for m in results.values())
            assert all(m.refused or 0.001 < m.median_ms < 50 for m in results.values())


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_agent_runs_with_minimal_packages_and_rejects_a_wrong_token(store: Store, tmp_path: Path) -> None:
    with (
        serving(create_app(Settings(home=tmp_path, require_tokens=True), store)) as url,
        running(url, "pi", 1, "--token", "hwnas_0_0") as stranger,
        running("http://127.0.0.1:9", "pi", 1) as lonely,
    ):
        assert "unauthorised" in stranger.process.communicate(timeout=60)[1] or stranger.process.returncode == 2
        assert stranger.process.returncode == 2
        assert lonely.process.stderr is not None
        assert "cannot be reached" in lonely.process.stderr.readline()  # and it goes on trying until it is stopped
        assert "stopped" in lonely.kill(signal.SIGTERM)
        assert lonely.process.returncode == 0
    assert store.queries.agents() == []


def test_the_queue_of_a_device_says_how_long_each_job_waits(store: Store, clock: fakes.Clock) -> None:
    register(store)
    first, _ = parked(store, "a", "b", "c")
    for _ in range(2):  # results 8 s apart
        clock.pass_(8)
        finish(store, claim(store))
    [agent] = store.queries.agents()
    [entry] = agent.queue
    assert (entry.owner, entry.kind, entry.networks, entry.wait_s) == ("local", "device", 1, 8.0)
    assert "2 of 3 networks measured, 8 seconds left" in str(store.queries.onboarding(first).waiting)
