"""The queue: positions equal the fair order, claims read few rows, and usage is summed as it grows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text

from nas.core.access import Principal
from nas.core.events import Progress, StageStarted
from nas.core.jobs import Lease
from nas.core.scheduling import QueuedJob, fair_order
from server.store.database import connect, reading
from server.store.jobs import MAX_STALLED
from server.store.models import Job
from server.store.queue import claimable_jobs, queue_positions, running_by_owner
from server.store.store import Store, open_store
from server.store.usage import usage_of
from tests.support import fakes


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(url: str, tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(url, str(tmp_path / "blobs"), clock) as opened:
        yield opened


def claim(store: Store, worker: str = "worker", seconds: float = 10.0) -> Lease:
    lease = store.jobs.claim(worker, seconds)
    assert lease is not None
    return lease


def owner(name: str) -> Principal:
    return Principal(name, frozenset({"submit"}))


def fill(store: Store, clock: fakes.Clock, searches: int) -> None:
    """Searches of three owners with several priorities, some of equal age, and some of them running."""
    rng = random.Random(0)
    fakes.add_device(store)
    for number in range(searches):
        clock.pass_(rng.choice((0.0, 1.0)))
        spec = fakes.search_spec(name=f"search {number}")
        fakes.add_search(store, spec, by=owner(rng.choice("abc")), priority=rng.choice((0, 0, 5, -5)))
        if rng.random() < 0.2:
            claim(store, seconds=1e6)


def engine_of(store: Store) -> Engine:
    return store.queries._engine


def fair_ids(store: Store) -> list[str]:
    """The queue as ``fair_order`` has it, from all rows."""
    with reading(engine_of(store)) as session:
        rows = session.scalars(select(Job).where(Job.status == "queued")).all()
        queued = [QueuedJob(r.id, r.owner, r.priority, r.created_at, urgent=r.kind == "dry_run") for r in rows]
        return [job.id for job in fair_order(queued, running_by_owner(session))]


def test_positions_and_claims_follow_the_fair_order(store: Store, clock: fakes.Clock) -> None:
    fill(store, clock, 60)
    for _ in range(2):
        store.jobs.submit(fakes.search_spec(), None, dry_run=True, space_id="tiny-0-10")
    expected = fair_ids(store)
    assert len(expected) > 30
    with reading(engine_of(store)) as session:
        jobs = session.scalars(select(Job).where(Job.status == "queued")).all()
        positions = queue_positions(session, jobs, running_by_owner(session))
        assert positions.length == len(expected)
        assert [positions.places[job_id] for job_id in expected] == list(range(1, len(expected) + 1))
        claimable = list(claimable_jobs(session, None, clock()))
    assert claimable[:16] == expected[:16]


def test_a_claim_reads_no_more_rows_of_a_longer_queue(tmp_path: Path) -> None:
    """By the steps of SQLite's virtual machine, which do not depend on the machine."""

    def steps(searches: int) -> int:
        with open_store(f"sqlite:///{tmp_path / str(searches)}.db", str(tmp_path), fakes.Clock()) as store:
            fakes.add_device(store)
            first = fakes.add_search(store)
            copy_job(engine_of(store), first, searches)
            counted = 0

            def count(connection: Any, *_: object) -> None:
                def step() -> None:
                    nonlocal counted
                    counted += 1

                connection.connection.driver_connection.set_progress_handler(step, 100)

            event.listen(engine_of(store), "begin", count)
            assert store.jobs.claim("worker", 10.0) is not None
            return counted

    few, many = steps(100), steps(5_000)
    assert many <= 2 * few


def copy_job(engine: Engine, job_id: str, copies: int) -> None:
    """Queue copies of a job."""
    columns = [
        column.name for column in Job.__table__.columns if column.name not in ("id", "created_at", "idempotency_key")
    ]
    names = ", ".join(columns)
    statement = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :copies) "
        f"INSERT INTO jobs (id, created_at, {names}) "
        f"SELECT 'copy-' || i, created_at + i, {names} FROM n, jobs WHERE jobs.id = :id"
    )
    with engine.execution_options(hwnas_write=True).begin() as connection:
        connection.execute(text(statement), {"copies": copies, "id": job_id})


def test_usage_counts_what_jobs_wrote_and_outlives_them(store: Store, clock: fakes.Clock) -> None:
    fakes.add_device(store)
    spec = fakes.search_spec(resources={"gpus": 2})
    search = fakes.add_search(store, spec, by=owner("ada"))
    lease = claim(store)
    clock.pass_(5.0)
    fakes.append(store, lease, [StageStarted("train", 0, 1), Progress("train", 1, 2)])
    clock.pass_(5.0)
    assert store.jobs.finish(lease, "succeeded")
    logged = store.queries.search(search).last_event

    def used() -> tuple[int, float, float]:
        with reading(engine_of(store)) as session:
            usage = usage_of(session, "ada")
        return usage.events, usage.busy_seconds, usage.gpu_seconds

    assert used() == (logged, 10.0, 20.0)
    assert store.quotas.view("ada").gpu_hours_used == pytest.approx(20.0 / 3600)
    store.jobs.delete(search)
    assert used() == (logged, 10.0, 20.0)
    assert store.quotas.view("ada").gpu_hours_used == pytest.approx(20.0 / 3600)


def test_attempts_lost_to_a_clock_are_no_proof_of_poison(url: str, tmp_path: Path, clock: fakes.Clock) -> None:
    """Another host, whose clock is ahead, takes the job away again and again, while its workers are well."""
    with (
        open_store(url, str(tmp_path), clock) as store,
        open_store(url, str(tmp_path), lambda: clock() + 16.0) as ahead,
    ):
        fakes.add_device(store)
        search = fakes.add_search(store)
        mine = claim(store, "mine", 15.0)
        for _ in range(2 * MAX_STALLED):
            theirs = claim(ahead, "ahead", 15.0)
            assert theirs.job_id == search
            assert fakes.append(store, mine) == "lost"
            clock.pass_(32.0)
            mine = claim(store, "mine", 15.0)
            assert fakes.append(ahead, theirs) == "lost"
            assert store.queries.search(search).status == "running"
        assert fakes.append(store, mine) == "continue"


def test_workers_that_are_not_heard_of_again_are_proof(store: Store, clock: fakes.Clock) -> None:
    fakes.add_device(store)
    search = fakes.add_search(store)
    for _ in range(MAX_STALLED):
        claim(store)
        clock.pass_(11.0)
    assert store.jobs.claim("worker", 10.0) is None
    assert store.queries.search(search).status == "quarantined"


@pytest.mark.postgres
def test_leases_go_by_the_clock_of_postgresql(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.databases import postgres_url

    url = postgres_url(postgres, "clocks")
    with open_store(url, str(tmp_path)) as store:
        fakes.add_device(store)
        search = fakes.add_search(store)
        lease = claim(store, seconds=15.0)
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert store.jobs.claim("another host", 15.0) is None
        assert fakes.append(store, lease) == "continue"
        assert store.queries.search(search).attempts == 1


@pytest.mark.parametrize("index", ["ix_jobs_parent_id", "ix_jobs_kind_status_created_at", "ix_jobs_queue"])
def test_lists_and_claims_have_their_indexes(url: str, tmp_path: Path, index: str) -> None:
    with open_store(url, str(tmp_path)):
        pass
    engine = connect(url)
    from sqlalchemy import inspect

    assert index in {found["name"] for found in inspect(engine).get_indexes("jobs")}
    engine.dispose()
