"""The job store: queue, leases, fencing, projections; the same on SQLite and PostgreSQL."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from sqlalchemy import func, inspect, select

from nas.core.errors import Conflict, InvalidInput, InvalidSpec, NotFound, StorageError, UnknownName
from nas.core.events import (
    Checkpoint,
    Evaluated,
    Event,
    Exported,
    HypervolumeAt,
    Measured,
    Progress,
    SearchState,
    StageFinished,
    StageStarted,
    Warned,
    decode,
    fold_all,
)
from nas.core.jobs import Lease
from nas.core.spec import FleetSpec, SearchSpec, SpaceSpec
from nas.schemas.candidates import FrontSchema
from nas.stages.fronts import front_of
from server.api.candidates import get_front
from server.cli import render
from server.dashboard import formatting
from server.store.database import connect, writing
from server.store.jobs import MAX_STALLED
from server.store.migrate import head, migrate, migrate_engine
from server.store.models import ArtifactRow, Base, EventRow, Job, PointRow
from server.store.projections import KEPT_PROGRESS
from server.store.store import Store, open_store
from tests.support import fakes


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(url: str, tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(url, str(tmp_path / "blobs"), clock) as opened:
        yield opened


@pytest.fixture
def search(store: Store) -> str:
    """A queued search whose device is ready."""
    fakes.add_device(store)
    return fakes.add_search(store)


def claim(store: Store, seconds: float = 10.0) -> Lease:
    lease = store.jobs.claim("worker", seconds)
    assert lease is not None
    return lease


def count(store: Store, table: type[Base]) -> int:
    with writing(store.queries._engine) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def append(store: Store, lease: Lease, *events: Event) -> str:
    return fakes.append(store, lease, events)


# Schema


def test_migrations_produce_the_models(url: str) -> None:
    migrate(url)
    migrate(url)  # does nothing the second time
    engine = connect(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    engine.dispose()


def test_concurrent_processes_migrate_once(url: str) -> None:
    engines = [connect(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate_engine, engines))
    with engines[0].connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all() == [head()]
    for engine in engines:
        engine.dispose()


def test_a_new_sqlite_file_waits_for_another_process_that_creates_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE theirs (id INTEGER)")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    engine = connect(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    release.join()
    other.close()
    engine.dispose()


def test_newer_schema_is_rejected(url: str) -> None:
    migrate(url)
    engine = connect(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(StorageError, match="9999"):
        migrate(url)


def test_sqlite_waits_for_locks_and_keeps_foreign_keys(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        pragmas = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar() for p in ("journal_mode", "foreign_keys")}
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 10_000
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1}


@pytest.mark.parametrize("wrong", ["mysql://x/y", "nonsense", "sqlite://"])
def test_unsupported_databases_are_rejected(wrong: str) -> None:
    with pytest.raises(InvalidInput):
        connect(wrong)


def test_unusable_database_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    with (
        pytest.raises(StorageError, match="database"),
        open_store(f"sqlite:///{tmp_path / 'folder.db'}", str(tmp_path)),
    ):
        pass


# Submitting


def test_idempotency_key_returns_its_job(store: Store) -> None:
    spec = fakes.search_spec()
    first = store.jobs.submit(spec, "key")
    assert store.jobs.submit(spec, "key") == first
    assert store.jobs.submit(spec, None) != first
    assert store.jobs.find(spec, "key") == first
    assert store.jobs.find(spec, "other") is None
    with pytest.raises(Conflict, match=first):
        store.jobs.submit(spec.model_copy(update={"seed": 1}), "key")
    with pytest.raises(Conflict):
        store.jobs.submit(fakes.device_spec(), "key")
    assert count(store, Job) == 2


def test_idempotency_key_of_a_version_whose_specs_had_fewer_fields(store: Store) -> None:
    spec = fakes.search_spec()
    first = store.jobs.submit(spec, "key")
    with writing(store.queries._engine) as session:
        job = session.get_one(Job, first)
        older = {name: value for name, value in job.spec.items() if name != "fleet"}
        assert older != job.spec
        job.spec = older
    assert store.jobs.find(spec, "key") == store.jobs.submit(spec, "key") == first
    with pytest.raises(Conflict, match=first):
        store.jobs.submit(spec.model_copy(update={"fleet": FleetSpec(devices=("bench", "phone"))}), "key")


def test_idempotency_key_of_a_spec_that_is_no_longer_valid(store: Store) -> None:
    spec = fakes.search_spec()
    first = store.jobs.submit(spec, "key")
    with writing(store.queries._engine) as session:
        job = session.get_one(Job, first)
        job.spec = {**job.spec, "retired_field": 1}
    with pytest.raises(Conflict, match=first):
        store.jobs.find(spec, "key")


def test_concurrent_submissions_with_one_key_create_one_job(store: Store) -> None:
    spec = fakes.search_spec()
    gate = threading.Barrier(6)

    def submit(_: int) -> str:
        gate.wait()
        return store.jobs.submit(spec, "key")

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(submit, range(6)))) == 1
    assert count(store, Job) == 1


@pytest.mark.parametrize("bad", [float("nan"), "\x00", "\ud800"])
def test_specs_that_cannot_be_stored_are_rejected(store: Store, bad: object) -> None:
    def with_param(value: object) -> SearchSpec:
        return SearchSpec(space=SpaceSpec().model_copy(update={"params": {"a": value}}))

    with pytest.raises(InvalidSpec):
        store.jobs.submit(with_param(bad), None)
    store.jobs.submit(with_param("\\u0000 spelled out"), None)


def test_device_has_one_onboarding_at_a_time(store: Store) -> None:
    spec = fakes.device_spec()
    first = store.jobs.submit(spec, None)
    with pytest.raises(Conflict, match=first):
        store.jobs.submit(spec, None)
    store.jobs.cancel(first)
    second = store.jobs.submit(spec, None)
    assert store.queries.device("bench").id == second


# Leases


def test_jobs_are_claimed_in_order_and_once(store: Store, clock: fakes.Clock) -> None:
    fakes.add_device(store)
    searches = []
    for _ in range(3):
        searches.append(fakes.add_search(store))
        clock.pass_(1.0)
    leases = [claim(store) for _ in range(3)]
    assert [lease.job_id for lease in leases] == searches
    assert store.jobs.claim("worker", 10.0) is None


def test_concurrent_claims_get_different_jobs(store: Store) -> None:
    fakes.add_device(store)
    searches = {fakes.add_search(store) for _ in range(8)}
    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda i: store.jobs.claim(f"worker {i}", 10.0), range(8)))
    assert {lease.job_id for lease in leases if lease is not None} == searches


def test_expired_lease_is_claimed_again_and_fences_the_old_worker(
    store: Store, search: str, clock: fakes.Clock
) -> None:
    old = claim(store, 10.0)
    assert append(store, old, StageStarted("train", 0, 1)) == "continue"
    clock.pass_(9.9)
    assert store.jobs.claim("other", 10.0) is None
    clock.pass_(0.2)
    assert append(store, old, StageFinished("train", 1.0)) == "lost"  # even before another has claimed it
    new = claim(store)
    assert (new.job_id, new.token) == (old.job_id, old.token + 1)
    before = count(store, EventRow)
    assert append(store, old, StageFinished("train", 1.0), Evaluated((fakes.candidate((0, 0, 0), 1.0),))) == "lost"
    assert not store.jobs.finish(old, "succeeded")
    assert not store.jobs.release(old)
    assert count(store, EventRow) == before
    assert count(store, PointRow) == 0
    assert store.queries.search(search).status == "running"
    assert append(store, new, StageFinished("train", 1.0)) == "continue"


def test_append_renews_the_lease(store: Store, search: str, clock: fakes.Clock) -> None:
    lease = claim(store, 10.0)
    for _ in range(5):
        clock.pass_(8.0)
        assert fakes.append(store, lease, [], 10.0) == "continue"
    assert store.jobs.claim("other", 10.0) is None


def test_lease_contains_the_log_with_the_latest_progress_only(store: Store, search: str) -> None:
    log = fakes.search_log()
    append(store, first := claim(store), *log[:9])
    store.jobs.release(first)
    events = [decode(e) for e in claim(store).events]
    assert events == [e for e in log[:9] if not (isinstance(e, Progress) and e.done == 1)]


def test_job_is_quarantined_after_five_attempts_without_progress(store: Store, search: str) -> None:
    for _ in range(MAX_STALLED):
        lease = claim(store)
        append(store, lease, StageStarted("train", 0, 1), Progress("train", 1, 2), Warned("train", "again"))
        assert store.jobs.release(lease, crash="the worker ran out of memory")
    assert store.jobs.claim("worker", 10.0) is None
    view = store.queries.search(search)
    assert view.status == "quarantined"
    assert view.attempts == MAX_STALLED
    assert view.error is not None
    assert "5 attempts" in view.error
    assert "ran out of memory" in view.error


@pytest.mark.parametrize("event", [Checkpoint("train", 1, "0" * 64), StageFinished("train", 1.0)])
def test_durable_progress_resets_the_attempt_count(store: Store, search: str, event: Event) -> None:
    for i in range(MAX_STALLED + 2):
        lease = claim(store)
        if i == 3:
            append(store, lease, event)
        store.jobs.release(lease, crash="killed")
    assert store.queries.search(search).status == "queued"


def test_repeated_event_is_no_progress(store: Store, search: str) -> None:
    for _ in range(MAX_STALLED + 1):
        lease = claim(store)
        append(store, lease, Evaluated((fakes.candidate((0, 0, 0), 50.0),)))
        store.jobs.release(lease, crash="killed")
    assert store.queries.search(search).status == "queued"
    assert store.jobs.claim("worker", 10.0) is None
    assert store.queries.search(search).status == "quarantined"


def test_interruptions_are_not_counted_as_crashes(store: Store, search: str) -> None:
    for _ in range(2 * MAX_STALLED):
        assert store.jobs.release(claim(store))
    assert claim(store).job_id == search


def test_leases_of_dead_owners_are_released(store: Store, search: str, clock: fakes.Clock) -> None:
    clock.pass_(1.0)
    other = fakes.add_search(store)
    dead = store.jobs.claim("host:1:1", 1000.0)
    alive = store.jobs.claim("host:2:2", 1000.0)
    assert dead is not None
    assert alive is not None
    for dispatcher in ("host:1:1", "host:2:2"):
        store.jobs.heartbeat(dispatcher, 1)
    assert store.jobs.release_dead(lambda owner: owner == "host:1:1") == 1
    assert [worker.name for worker in store.queries.workers(60.0)] == ["host:2:2"]
    assert claim(store).job_id == search
    assert append(store, dead, StageStarted("train", 0, 1)) == "lost"
    assert append(store, alive, StageStarted("train", 0, 1)) == "continue"
    assert store.queries.search(other).status == "running"


# Cancelling


def test_cancel_ends_a_queued_job(store: Store, search: str) -> None:
    store.jobs.cancel(search)
    store.jobs.cancel(search)
    assert store.queries.search(search).status == "cancelled"
    assert store.jobs.claim("worker", 10.0) is None


def test_cancel_fences_the_worker(store: Store, search: str) -> None:
    lease = claim(store)
    append(store, lease, Evaluated((fakes.candidate((0, 0, 0), 50.0),)))
    store.jobs.cancel(search)
    assert store.queries.search(search).status == "cancelled"
    assert append(store, lease, Evaluated((fakes.candidate((1, 0, 0), 50.0),))) == "lost"
    assert not store.jobs.finish(lease, "succeeded")
    view = store.queries.search(search)
    assert (view.status, view.evaluations) == ("cancelled", 1)


def test_cancelled_job_of_a_dead_worker_is_not_run_again(store: Store, search: str, clock: fakes.Clock) -> None:
    claim(store, 10.0)
    store.jobs.cancel(search)
    clock.pass_(11.0)
    assert store.jobs.claim("other", 10.0) is None
    assert store.queries.search(search).status == "cancelled"


def test_ended_job_cannot_be_cancelled(store: Store, search: str) -> None:
    fakes.run_log(store, fakes.search_log())
    with pytest.raises(Conflict, match="succeeded"):
        store.jobs.cancel(search)
    with pytest.raises(NotFound):
        store.jobs.cancel("nothing")


# Projections


def same(store: Store, search: str, expected: SearchState) -> None:
    spec, state = store.queries.state(search)
    assert spec == fakes.search_spec()
    assert state == expected
    assert list(state.candidates) == list(expected.candidates)
    front = front_of(spec, expected)
    assert store.queries.front(search) == (spec, front)
    summary = store.queries.search(search)
    assert (summary.front_size, summary.hypervolume) == (len(front.members), front.hypervolume)
    assert summary.baseline_hypervolume == front.baseline_hypervolume
    assert summary.evaluations == len(expected.of("search"))


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_projections_equal_the_fold_wherever_the_log_is_cut(store: Store, search: str, batch: int) -> None:
    log = fakes.search_log()
    for cut in range(0, len(log), batch):
        lease = claim(store)
        known_events = [decode(e) for e in lease.events]
        assert fold_all(known_events) == fold_all(log[:cut])
        append(store, lease, *log[cut : cut + batch])
        same(store, search, fold_all(log[: cut + batch]))
        store.jobs.release(lease, crash="killed")
    assert store.queries.search(search).evaluations == 3


_genes = st.tuples(*[st.integers(0, 1)] * 3)
_origins = st.sampled_from(["search", "baseline"])
_ms = st.floats(0.1, 100.0)
_events = st.one_of(
    st.builds(lambda g, a, o: Evaluated((fakes.candidate(g, a, o),)), _genes, st.floats(0, 100), _origins),
    st.builds(
        lambda g, o, ms, claim: Measured(fakes.arch(*g), o, fakes.measurement(ms), claim),
        _genes,
        _origins,
        st.none() | _ms,
        _ms,
    ),
    st.builds(lambda g, n: Exported(fakes.arch(*g), n, "0" * 64, 1, "x"), _genes, st.sampled_from("ab")),
    st.builds(lambda s, n: Checkpoint(s, n, "0" * 64), st.sampled_from(["t", "u"]), st.integers(0, 9)),
    st.builds(lambda n, a: HypervolumeAt(n, a, a / 2), st.integers(0, 9), st.floats(0, 1)),
    st.builds(lambda s: Warned("t", s), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))),
    st.builds(lambda s, t: StageFinished(s, t, {"n": 1}), st.sampled_from(["t", "u"]), _ms),
    st.builds(lambda s: StageStarted(s, 0, 2), st.sampled_from(["t", "u"])),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(_events, max_size=6), max_size=5))
def test_projections_equal_the_fold_of_any_log(store: Store, batches: list[list[Event]]) -> None:
    if not store.queries.devices():
        fakes.add_device(store)
    search = fakes.add_search(store)
    lease = claim(store)
    for batch in batches:
        append(store, lease, *batch)
    same(store, search, fold_all([e for batch in batches for e in batch]))
    with writing(store.queries._engine) as session:
        rows = session.scalars(select(EventRow.body).where(EventRow.job_id == search).order_by(EventRow.seq)).all()
    assert fold_all(decode(body) for body in rows) == fold_all([e for batch in batches for e in batch])
    store.jobs.finish(lease, "succeeded")


def test_failed_batch_writes_nothing(store: Store, search: str) -> None:
    lease = claim(store)
    good = fakes.records([Evaluated((fakes.candidate((0, 0, 0), 50.0),))])
    with pytest.raises(InvalidInput, match="unknown event kind"):
        fakes.append(store, lease, [*good, {"kind": "nonsense"}], 10.0)
    with pytest.raises(InvalidInput, match="malformed"):
        fakes.append(store, lease, [*good, {"kind": "checkpoint"}], 10.0)
    bad = replace(fakes.candidate((0, 0, 0), 50.0), metrics={"val_acuracy": 1.0})
    with pytest.raises(UnknownName, match="val_accuracy"):
        append(store, lease, Evaluated((bad,)))
    with pytest.raises(InvalidInput, match="JSON"):
        append(store, lease, Evaluated((fakes.candidate((0, 0, 0), float("nan")),)))
    assert count(store, PointRow) == 0
    assert store.queries.search(search).last_event == 2  # queued, running


def test_non_finite_progress_value_is_dropped(store: Store, search: str) -> None:
    append(store, claim(store), Progress("train", 1, 2, values={"loss": float("nan"), "rate": 0.1}))
    assert store.queries.search(search).stages[0].values == {"rate": 0.1}


def test_frequent_progress_does_not_grow_the_database(store: Store, search: str) -> None:
    lease = claim(store)
    for i in range(10):
        append(store, lease, *[Progress("train", 100 * i + j, 1000) for j in range(100)])
    assert count(store, EventRow) <= KEPT_PROGRESS + 12  # 10 of the device, 2 statuses
    page, _ = store.queries.events(search, 0, 1000)
    done = [item.body["done"] for item in page.items if item.body["kind"] == "progress"]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 999)


def test_progress_bars_and_time_left(store: Store, clock: fakes.Clock) -> None:
    fakes.add_device(store)
    search = fakes.add_search(store, stages=("estimate", "train", "export"))
    lease = claim(store, 1000.0)
    fakes.append(store, lease, [StageStarted("train", 1, 3), Progress("train", 0, 100, "epochs")], 1000.0)
    assert store.queries.search(search).eta_s is None
    clock.pass_(20.0)
    fakes.append(store, lease, [Progress("train", 10, 100, "epochs", {"loss": 1.0})], 1000.0)
    clock.pass_(5.0)
    view = store.queries.search(search)
    assert [(s.name, s.status) for s in view.stages] == [
        ("estimate", "waiting"),
        ("train", "running"),
        ("export", "waiting"),
    ]
    train = view.stages[1]
    assert (train.done, train.total, train.unit, train.values, train.seconds) == (
        10,
        100,
        "epochs",
        {"loss": 1.0},
        25.0,
    )
    assert train.eta_s == pytest.approx(90 * 2.0 - 5.0)
    assert view.eta_s is None  # a stage waits that nothing is known of
    assert formatting.time_left(view) == "train, estimated: about 2 min 55 s left; not counted: estimate, export"
    assert view.untimed_stages == ["estimate", "export"]
    fakes.append(store, lease, [StageFinished("train", 24.0, {"x": 1})], 1000.0)
    train = store.queries.search(search).stages[1]
    assert (train.status, train.done, train.seconds, train.result) == ("finished", 10, 24.0, {"x": 1})
    log = [StageFinished("estimate", 1.0), StageStarted("export", 2, 3), Progress("export", 0, 4)]
    fakes.append(store, lease, log, 1000.0)
    clock.pass_(10.0)
    fakes.append(store, lease, [Progress("export", 1, 4)], 1000.0)
    view = store.queries.search(search)
    assert view.eta_s == pytest.approx(30.0)  # the last stage
    assert formatting.time_left(view) == "estimated: about 30 s left"
    assert view.untimed_stages == []


def test_onboarding_creates_device_and_predictor(store: Store) -> None:
    job = fakes.add_device(store)
    device = store.queries.device("bench")
    assert device.profile_id == fakes.PROFILE.id
    assert device.profile is not None
    assert device.profile.machine == "x86_64"
    assert [(c.id, c.space, c.family, c.mape) for c in device.predictors] == [(job, "tiny-0-10", "flat", 2.0)]
    assert [s.status for s in device.stages] == ["finished"] * 3
    assert store.queries.predictor(job) == device.predictors[0]
    assert store.queries.predictors("bench") == store.queries.predictors(None)
    with pytest.raises(NotFound, match="bench"):
        store.queries.predictors("bnch")


def test_onboarding_without_a_result_is_rejected(store: Store) -> None:
    store.jobs.submit(fakes.device_spec(), None)
    lease = claim(store)
    with pytest.raises(InvalidInput, match="profile"):
        append(store, lease, StageFinished("profile", 1.0))


# What a lease resolves


def test_search_gets_the_newest_predictor_of_its_space(store: Store, clock: fakes.Clock) -> None:
    fakes.add_device(store)
    clock.pass_(1.0)
    newest = fakes.add_device(store)
    clock.pass_(1.0)
    fakes.add_device(store, space_id="tiny-other")
    fakes.add_search(store)
    payload = claim(store).payload
    [device] = payload.devices
    assert device.predictor_id == newest
    assert device.predictor.family == "flat"
    assert device.profile == fakes.PROFILE
    assert (payload.supernet_blob, payload.inherited) == (None, ())


def test_search_without_a_predictor_fails_with_the_reason(store: Store) -> None:
    search = fakes.add_search(store)
    assert store.jobs.claim("worker", 10.0) is None
    view = store.queries.search(search)
    assert view.status == "failed"
    assert "'bench' has no latency predictor" in (view.error or "")


def test_child_inherits_supernet_and_estimates_over_generations(store: Store) -> None:
    fakes.add_device(store)
    parent = fakes.add_search(store)
    fakes.run_log(store, fakes.search_log("a" * 64))
    child = fakes.add_search(store, fakes.search_spec(supernet=parent), parent=parent)
    lease = claim(store)
    assert lease.payload.supernet_blob == "a" * 64
    inherited = lease.payload.inherited
    assert [(c.origin, c.arch.genes) for c in inherited[:3]] == [
        ("search", (0, 0, 0)),
        ("search", (1, 1, 1)),
        ("baseline", (0, 1, 0)),
    ]
    assert inherited[0].metrics == {"val_accuracy": 60.0, "val_loss": 1.0}
    assert all(set(c.metrics) <= {"val_accuracy", "val_loss"} for c in inherited)
    append(store, lease, StageFinished("explore", 1.0))
    store.jobs.finish(lease, "succeeded")
    fakes.add_search(store, fakes.search_spec(supernet=child), parent=child)
    assert claim(store).payload.supernet_blob == "a" * 64


# Reading


def test_pages_of_searches_are_complete_newest_first(store: Store, clock: fakes.Clock) -> None:
    submitted = []
    for i in range(7):
        submitted.append(fakes.add_search(store))
        clock.pass_(float(i % 2))  # some at the same time
    listed: list[str] = []
    cursor = None
    while True:
        page = store.queries.searches(None, 3, cursor)
        listed += [s.id for s in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert sorted(listed) == sorted(submitted)
    assert listed[0] in submitted[-2:]
    assert [s.created_at for s in map(store.queries.search, listed)] == sorted(
        (s.created_at for s in map(store.queries.search, submitted)), reverse=True
    )
    assert store.queries.searches("running", 3, None).items == []


@pytest.mark.parametrize("order", ["-val_accuracy", "val_accuracy", "test_accuracy", "-test_accuracy", "position"])
def test_pages_of_candidates_are_complete_and_in_order(store: Store, search: str, order: str) -> None:
    fakes.run_log(store, fakes.search_log())
    all_candidates = store.queries.candidates(search, None, None, order, 100, None)
    assert (all_candidates.total, all_candidates.next) == (5, None)
    paged = []
    cursor = None
    while True:
        page = store.queries.candidates(search, None, None, order, 2, cursor)
        paged += page.items
        cursor = page.next
        if cursor is None:
            break
    assert paged == all_candidates.items
    name = order.removeprefix("-")
    if name != "position":
        values = [p.metrics[name].value for p in all_candidates.items if name in p.metrics]
        assert values == sorted(values, reverse=order.startswith("-"))
        assert all(name in p.metrics for p in all_candidates.items[: len(values)])


def test_candidates_by_origin_and_status(store: Store, search: str) -> None:
    fakes.run_log(store, fakes.search_log())
    assert store.queries.candidates(search, "baseline", None, "position", 9, None).total == 2
    violated = store.queries.candidates(search, None, "violated", "position", 9, None)
    assert [p.arch for p in violated.items] == [fakes.arch(1, 1, 1).id]
    with pytest.raises(UnknownName, match="val_accuracy"):
        store.queries.candidates(search, None, None, "acuracy", 9, None)


@pytest.mark.parametrize("cursor", ["x", "!!!", "W10=", "WyJhIiwgImIiXQ==", "bnVsbA=="])
def test_invalid_cursor_is_rejected(store: Store, search: str, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        store.queries.searches(None, 3, cursor)


def test_search_summary(store: Store, search: str) -> None:
    fakes.run_log(store, fakes.search_log())
    view = store.queries.search(search)
    assert (view.status, view.evaluations, view.warnings) == ("succeeded", 3, ["slow"])
    assert [h.evaluations for h in view.hypervolume_history] == [2, 4]
    assert view.front_size >= 1
    assert view.verified == 1
    assert view.hypervolume is not None


def test_re_exported_file_is_listed_once(store: Store, search: str) -> None:
    fakes.run_log(store, fakes.search_log())
    assert count(store, ArtifactRow) == 2
    assert store.queries.artifact(search, fakes.arch(3, 3, 3).id, "model.onnx").report == {"ok": True, "again": 1}
    with pytest.raises(NotFound, match=r"model\.onnx"):
        store.queries.artifact(search, fakes.arch(3, 3, 3).id, "model.pt")


def test_workers_are_counted_while_they_send_heartbeats(store: Store, clock: fakes.Clock) -> None:
    store.jobs.heartbeat("a", 1)
    store.jobs.heartbeat("b", 1)
    assert store.queries.counts(30.0) == (2, 0, 0)
    clock.pass_(20.0)
    store.jobs.heartbeat("b", 1)
    clock.pass_(20.0)
    assert store.queries.counts(30.0) == (1, 0, 0)
    store.jobs.unregister("b")
    assert store.queries.counts(30.0) == (0, 0, 0)


@pytest.mark.long
def test_candidates_outside_the_domain_are_counted_and_shown(store: Store, search: str) -> None:
    flags = {(0, 0, 0): True, (1, 1, 1): False, (3, 3, 3): True}
    evaluated = [replace(fakes.candidate(g, 60.0 + sum(g)), extrapolated=flag) for g, flag in flags.items()]
    unknown = fakes.candidate((0, 1, 0), 70.0, "baseline")
    fakes.run_log(store, [Evaluated((*evaluated, unknown))])
    before = store.queries.search(search)
    assert (before.evaluations, before.extrapolated, before.extrapolated_measured) == (3, 2, 0)
    page = store.queries.candidates(search, None, None, "position", 100, None)
    assert [c.extrapolated for c in page.items] == [True, False, True, None]
    front = FrontSchema.model_validate_json(bytes(get_front(search, store).body))
    outside = " ".join(_text(render.front(front)).split())
    assert f"not measured: {', '.join(c.arch for c in front.members if c.extrapolated)}" in outside
    assert "2 of 3 evaluated candidates lie outside the domain" in _text(render.search(before))


def test_measured_extrapolations_are_counted(store: Store, search: str) -> None:
    outside = replace(fakes.candidate((3, 3, 3), 90.0), extrapolated=True)
    fakes.run_log(store, [Evaluated((outside,)), Measured(outside.arch, "search", fakes.measurement(9.0), 11.0)])
    summary = store.queries.search(search)
    assert (summary.extrapolated, summary.extrapolated_measured) == (1, 1)


def _text(renderable: RenderableType) -> str:
    console = Console(width=400, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()
