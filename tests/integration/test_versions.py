"""What the store and the API know of predictors' versions, drift, two devices side by side, and agents' figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter
from sqlalchemy import select

from nas.core.access import LOCAL
from nas.core.arch import Arch
from nas.core.drift import LIMIT, Drift, DriftReading, drift_of
from nas.core.errors import NotFound
from nas.core.events import Event, Measured, MeasurementsWanted, Refitted, StageFinished, StageStarted
from nas.core.jobs import Lease
from nas.core.metrics import spearman
from nas.schemas.devices import DeviceComparisonSchema
from nas.schemas.predictors import PredictorVersionSchema
from predictors.storage import DeviceMeasurements
from server.api.app import create_app
from server.settings import Settings
from server.store.database import reading
from server.store.garbage import referenced_blobs
from server.store.models import ReadingRow
from server.store.store import Store, open_store
from tests.support import fakes


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(url: str, tmp_path: Path, clock: fakes.Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(url, str(tmp_path / "blobs"), clock) as store:
        yield store


def stored_measurements(store: Store, n: int = 40, factor: float = 1.0) -> str:
    rng = np.random.default_rng(n)
    genes = np.unique(rng.integers(0, 4, (3 * n, 3)), axis=0)[:n]
    genes[genes[:, 1] == 0, 2] = 0
    return store.blobs.put(
        DeviceMeasurements(genes, factor * (1.0 + genes.sum(1)), np.zeros(len(genes), dtype=bool)).dump()
    )


def add_device(store: Store, name: str = "bench", weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> str:
    """A device that knows what it was fitted to."""
    profile = replace(fakes.PROFILE, name=name, cores=fakes.PROFILE.cores + (name != "bench"), canary_ms=0.2)
    *before, fit = fakes.device_log(store.blobs.put(fakes.predictor_bytes(weights)), profile=profile)
    assert isinstance(fit, StageFinished)
    result = {**fit.result, "measurements_blob": stored_measurements(store), "networks": 40}
    spec = fakes.device_spec(name=name)
    job = store.jobs.submit(spec, None, stages=("profile", "measure", "fit"))
    fakes.run_log(store, [*before, replace(fit, result=result)])
    return job


def measurement(ms: float | None, drift: float = 1.0, name: str = "bench") -> Any:
    return replace(fakes.measurement(ms), drift=drift)


def refit(store: Store, number: int = 1, better: bool = True, broken: int = 0) -> Refitted:
    record = {
        "family": "flat",
        "blob": store.blobs.put(fakes.predictor_bytes((1.0, 1.0, 1.0 + number))),
        "card": {**fakes.CARD, "n": 96 + number},
        "measurements_blob": stored_measurements(store, 41 + number),
        "networks": 41 + number,
        "better": better,
        "why": "cross-validated error: 2.0 % with what was fed back, 3.0 % without",
    }
    return Refitted("refine", number, (("search", "a"),), 3, broken, record)


def learning(store: Store, *refits: Event, ms: float = 11.0, drift: float = 1.0) -> list[Event]:
    """The log of a search that measures one network, of 10 ms as predicted, and feeds it back."""
    return [
        *fakes.search_log(store.blobs.put(b"abc"))[:17],
        Measured(fakes.arch(3, 3, 3), "search", measurement(ms, drift), 11.0),
        StageFinished("verify", 1.0),
        StageStarted("refine", 4, 6),
        *refits,
        StageFinished("refine", 1.0),
    ]


def claim(store: Store, key: str) -> tuple[str, Lease]:
    job = fakes.add_search(store, key=key)
    lease = store.jobs.claim("tests", 100.0)
    assert lease is not None
    assert lease.job_id == job
    return job, lease


def end(store: Store, lease: Lease, events: list[Event]) -> None:
    assert fakes.append(store, lease, events, 100.0) == "continue"
    assert store.jobs.finish(lease, "succeeded")


def test_what_a_search_feeds_back_is_a_version_that_later_searches_get(store: Store, clock: fakes.Clock) -> None:
    onboarding = add_device(store)
    clock.pass_(10)
    first, lease = claim(store, "first")
    assert lease.payload.devices[0].predictor_id == onboarding
    assert lease.payload.refit.genes == ()
    end(store, lease, learning(store, refit(store, 1, broken=1), refit(store, 2)))
    clock.pass_(10)
    second, lease = claim(store, "second")
    assert lease.payload.devices[0].predictor_id == f"{first}-2"
    assert lease.payload.refit.genes == ((3, 3, 3),)
    assert lease.payload.refit.latency_ms == (11.0,)
    versions = store.queries.versions("bench")
    assert [(v.number, v.before, v.in_use, v.better) for v in versions] == [
        (3, f"{first}-1", True, True),
        (2, onboarding, False, True),
        (1, None, False, True),
    ]
    assert [v.searches for v in versions] == [[second], [], [first]]
    assert [v.search for v in versions] == [first, first, None]
    assert [v.networks for v in versions] == [43, 42, 40]
    assert store.queries.device("bench").predictors[0].number == 3
    assert store.queries.search(first).predictor == onboarding
    version_ids = {v.id for v in versions}
    assert {card.id for card in store.queries.predictors("bench")} == version_ids
    assert store.queries.versions("bench", owner="somebody else")[0].search is None
    # Versions, and what they know, outlive the search that made them.
    store.jobs.delete(first)
    assert {v.id for v in store.queries.versions("bench")} == version_ids
    with reading(store.queries._engine) as session:
        assert stored_measurements(store, 42) in referenced_blobs(session)
    with pytest.raises(NotFound):
        store.queries.versions("nope")


@pytest.mark.parametrize("at_once", [1, 2, 99])
def test_a_reading_names_the_version_that_had_predicted_it(store: Store, clock: fakes.Clock, at_once: int) -> None:
    add_device(store)
    clock.pass_(10)
    search, lease = claim(store, "first")
    later = Measured(fakes.arch(1, 1, 1), "search", measurement(4.0), 4.4)
    events = [*learning(store, refit(store, broken=1))[:-1], later, refit(store, 2)]
    for i in range(0, len(events), at_once):
        assert fakes.append(store, lease, events[i : i + at_once], 100.0) == "continue"
    with reading(store.queries._engine) as session:
        predictor_ids = session.scalars(select(ReadingRow.predictor_id).order_by(ReadingRow.id)).all()
    onboarding = store.queries.search(search).predictor
    assert predictor_ids == [onboarding, f"{search}-1"]


def test_a_running_search_keeps_the_version_that_it_began_with(store: Store, clock: fakes.Clock) -> None:
    onboarding = add_device(store)
    clock.pass_(10)
    slow, lease = claim(store, "slow")
    fakes.append(store, lease, fakes.search_log(store.blobs.put(b"abc"))[:17], 100.0)
    _, other = claim(store, "other")
    clock.pass_(5)
    end(store, other, learning(store, refit(store)))
    assert store.jobs.release(lease)
    again = store.jobs.claim("tests", 100.0)
    assert again is not None
    assert again.job_id == slow
    assert again.payload.devices[0].predictor_id == onboarding
    assert again.payload.refit.genes == ()  # what was measured since it began plays no part
    # It learned from what the other did not know, but not the other way round: the other's stays in use.
    end(store, again, [Measured(fakes.arch(1, 1, 1), "search", measurement(4.0), 4.4), refit(store)])
    newest, middle, _ = store.queries.versions("bench")
    assert (newest.number, newest.better, newest.in_use) == (3, False, False)
    assert "version 2" in newest.why
    assert middle.in_use
    clock.pass_(5)
    _, third = claim(store, "third")
    assert sorted(third.payload.refit.genes) == [(1, 1, 1), (3, 3, 3)]


def test_a_version_that_is_worse_is_kept_and_not_used(store: Store, clock: fakes.Clock) -> None:
    onboarding = add_device(store)
    clock.pass_(10)
    _, lease = claim(store, "first")
    end(store, lease, learning(store, refit(store, better=False)))
    newest, oldest = store.queries.versions("bench")
    assert (newest.better, newest.in_use, oldest.in_use) == (False, False, True)
    assert store.queries.predictor_for("bench", "tiny-0-10") == ("flat", store.blobs.put(fakes.predictor_bytes()))
    clock.pass_(1)
    _, lease = claim(store, "second")
    assert lease.payload.devices[0].predictor_id == onboarding


def test_drift_is_what_was_measured_over_what_was_predicted(store: Store, clock: fakes.Clock) -> None:
    add_device(store)
    assert store.queries.drift("bench").status == "unknown"
    for key, ms, canary in (("a", 10.2, 1.0), ("b", 9.7, 1.02)):
        clock.pass_(86_400)
        _, lease = claim(store, key)
        end(store, lease, learning(store, ms=ms, drift=canary))
    drift = store.queries.drift("bench")
    assert [r.ratio for r in drift.readings] == pytest.approx([1.02, 0.97])
    assert [s.canary for s in drift.sessions] == [1.0, 1.02]
    assert (drift.status, drift.within) == ("stable", pytest.approx(0.03))
    # The same machine profiled again: its canary takes longer, and what was measured is still of this profile.
    spec = fakes.device_spec()
    clock.pass_(86_400)
    store.jobs.submit(spec, None)
    slower = replace(fakes.PROFILE, canary_ms=0.25)
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes()), profile=slower))
    drift = store.queries.drift("bench")
    assert drift.sessions[-1].canary == pytest.approx(1.25)
    assert drift.status == "drifting"
    assert [v.number for v in store.queries.versions("bench")] == [2, 1]
    # Another runtime is another profile, of which nothing is known yet.
    clock.pass_(86_400)
    store.jobs.submit(spec, None)
    newer = replace(fakes.PROFILE, runtime_version="2.0")
    fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes()), profile=newer))
    assert store.queries.drift("bench").status == "unknown"


def test_a_device_that_is_slower_than_it_was_says_so() -> None:
    def session(day: int, ratio: float, canary: float = 1.0) -> list[DriftReading]:
        start = datetime(2030, 1, day, tzinfo=UTC)
        ratios = [ratio - 0.01, ratio, ratio + 0.01]
        return [DriftReading(start + timedelta(seconds=i), "a", r, canary) for i, r in enumerate(ratios)]

    assert drift_of("bench", []).status == "unknown"
    steady = drift_of("bench", [session(1, 1.02), session(2, 0.97)])
    assert (steady.status, len(steady.sessions)) == ("stable", 2)
    assert steady.within == pytest.approx(0.03)
    assert "within 3.0 %" in steady.sentence
    slower = drift_of("bench", [session(1, 1.0), session(2, 1.0 + LIMIT + 0.05)])
    assert slower.status == "drifting"
    assert "15 % longer than predicted" in slower.sentence
    assert "Add the device again" in slower.sentence
    canary = drift_of("bench", [session(1, 1.0), session(2, 1.0, canary=0.8)])
    assert "the canary takes 20 % less" in canary.sentence
    mended = drift_of("bench", [session(1, 1.3), session(2, 1.01)])
    assert mended.status == "stable"
    assert "farther off before" in mended.sentence
    canary_only = drift_of("bench", [[DriftReading(datetime(2030, 1, 1, tzinfo=UTC), None, None, 1.2)]])
    assert canary_only.status == "drifting"
    assert canary_only.sessions[0].networks == 0


@pytest.fixture
def api(store: Store, tmp_path: Path) -> TestClient:
    return TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1")


def test_versions_drift_and_two_devices_over_rest(store: Store, api: TestClient, clock: fakes.Clock) -> None:
    add_device(store)
    add_device(store, "board", (3.0, 1.0, 0.5))
    clock.pass_(10)
    search, lease = claim(store, "first")
    end(store, lease, learning(store, refit(store)))
    versions = [PredictorVersionSchema.model_validate(v) for v in api.get("/v1/devices/bench/versions").json()]
    assert [v.number for v in versions] == [2, 1]
    assert versions[0].search == search
    drift = TypeAdapter(Drift).validate_json(api.get("/v1/devices/bench/drift").content)
    assert [r.ratio for r in drift.readings] == pytest.approx([1.1])
    both = DeviceComparisonSchema.model_validate(
        api.get("/v1/devices/bench/comparison", params={"other": "board"}).json()
    )
    assert (both.first, both.second, both.space_name) == ("bench", "board", "tiny")
    first, second = (np.array([getattr(p, f"{side}_ms") for p in both.pairs]) for side in ("first", "second"))
    assert both.spearman == pytest.approx(spearman(first, second))
    assert both.ratio == pytest.approx(np.median(second / first))
    pair_by_arch = {p.arch: p for p in both.pairs}
    fed = pair_by_arch[Arch("tiny-0-10", (3, 3, 3)).id]
    assert (fed.first_ms, fed.first_kind) == (11.0, "measured")
    predicted = next(p for p in both.pairs if p.second_kind == "predicted")
    genes = next(g for g in np.ndindex(4, 4, 4) if Arch("tiny-0-10", g).id == predicted.arch)
    assert predicted.second_ms == pytest.approx(1.0 + 3.0 * genes[0] + genes[1] + 0.5 * genes[2])
    assert both.both_measured == sum(p.first_kind == p.second_kind == "measured" for p in both.pairs) > 0
    assert [d.label for d in both.differences] == ["cores"]
    assert [(d.first, d.second) for d in both.differences] == [("4", "5")]
    assert {v.number for v in both.versions} == {1, 2}
    for path, status, message in (
        ("bench/comparison?other=bench", 422, "twice"),
        ("bench/comparison?other=nope", 404, "no device 'nope'"),
        ("bench/comparison?other=board&space=other", 404, "tiny-0-10"),
        ("nope/versions", 404, "no device"),
        ("nope/drift", 404, "no device"),
    ):
        answer = api.get(f"/v1/devices/{path}")
        assert (answer.status_code, message in answer.json()["message"]) == (status, True), answer.text


def test_agents_figures(store: Store, api: TestClient, clock: fakes.Clock) -> None:
    for name in ("pi", "phone"):
        profile = replace(fakes.PROFILE, name=name, source="agent", canary_ms=0.2)
        store.measurements.register(name, "one", profile, {}, LOCAL)
        clock.pass_(50)
    spec = fakes.device_spec(name="pi", source="agent")
    store.jobs.submit(spec, None)
    lease = store.jobs.claim("tests", 100.0)
    assert lease is not None
    profile = replace(fakes.PROFILE, name="pi", source="agent", canary_ms=0.2)
    models = {network: store.blobs.put(network.encode()) for network in ("a", "b", "c")}
    assert fakes.append(store, lease, [MeasurementsWanted("measure", profile, models)]) == "stop"
    store.measurements.claim("phone", "one", LOCAL)
    task = store.measurements.claim("pi", "one", LOCAL)
    assert task is not None
    clock.pass_(70)
    store.measurements.claim("phone", "one", LOCAL)
    text = api.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("hwnas_agent"))
    assert float(figures["hwnas_agents"]) == 2
    assert float(figures["hwnas_agents_live"]) == 1
    assert float(figures['hwnas_agent_age_seconds{device="pi"}']) == 70
    assert float(figures['hwnas_agent_age_seconds{device="phone"}']) == 0
    assert float(figures['hwnas_agent_measurements{device="pi",status="queued"}']) == 2
    assert float(figures['hwnas_agent_measurements{device="pi",status="leased"}']) == 1
    assert float(figures['hwnas_agent_measurements{device="phone",status="queued"}']) == 0
