"""Stored fronts equal the fronts of the folded state, whatever a search does and wherever its log is cut."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from nas.core.events import Candidate, Evaluated, Event, HypervolumeAt, Measured, StageFinished, fold_all
from nas.core.fronts import compute_front
from nas.core.spec import ObjectiveSpec, SearchSpec
from nas.stages.fronts import front_of
from server.store import migrate
from server.store.database import writing
from server.store.fronts import front_devices, rebuild_fronts
from server.store.models import FrontMemberRow, Job
from server.store.store import Store, open_store
from tests.support import fakes, fleets


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        fleets.add_board(opened)
        yield opened


BOUNDED = (ObjectiveSpec(name="accuracy", bound=20.0), ObjectiveSpec(name="latency", bound=6.0))
SPECS = {
    "one device": fakes.search_spec(),
    "bounds": fakes.search_spec(objectives=BOUNDED),
    "three objectives": fakes.search_spec(objectives=[{"name": n} for n in ("accuracy", "latency", "macs")]),
    "worst case": fleets.fleet_spec(),
    "shares": fleets.fleet_spec(bounds_ms=fleets.BOUNDS),
    "each": fleets.fleet_spec(front="each"),
}


def random_log(spec: SearchSpec, rng: random.Random, length: int) -> list[Event]:
    """What searches do, in any order: networks evaluated, again and with test data, measured, stages finished."""
    reference = (
        fleets.ESTIMATED if spec.fleet is not None else StageFinished("estimate", 0.1, {"reference": fakes.REFERENCE})
    )
    verified = {"measured": rng.random() < 0.5}
    log: list[Event] = [reference]
    evaluated: list[Candidate] = []
    for _ in range(length):
        kind = rng.choices(("new", "again", "test", "measured", "verified", "volume"), (6, 2, 3, 3, 0.3, 1))[0]
        if kind == "new" or not evaluated:
            batch = [random_candidate(spec, rng) for _ in range(rng.randint(1, 5))]
            evaluated += batch
            log.append(Evaluated(tuple(batch)))
        elif kind == "volume":
            log.append(HypervolumeAt(rng.randint(0, 9), rng.random(), rng.random(), rng.choice(spec.views)))
        elif kind == "verified":
            log.append(StageFinished("verify", 1.0, verified))
        else:
            chosen = rng.choice(evaluated)
            log.append(changed(kind, chosen, spec, rng))
    return log


def changed(kind: str, chosen: Candidate, spec: SearchSpec, rng: random.Random) -> Event:
    if kind == "measured":
        took = fakes.measurement(rng.choice((None, rng.uniform(1.0, 10.0))))
        device = rng.choice(spec.devices) if spec.fleet is not None else None
        return Measured(chosen.arch, chosen.origin, took, rng.uniform(1.0, 10.0), device)
    metric = "val_accuracy" if kind == "again" else "test_accuracy"
    return Evaluated((Candidate(chosen.arch, chosen.origin, {metric: float(rng.randint(0, 100))}),))


def random_candidate(spec: SearchSpec, rng: random.Random) -> Candidate:
    genes = tuple(rng.randint(0, 3) for _ in range(3))
    accuracy, origin = float(rng.randint(0, 100)), rng.choice(("search", "baseline", "search", "baseline", "reference"))
    if spec.fleet is not None:
        return fleets.candidate(genes, accuracy, origin, by_share=spec.by_share)
    return fakes.candidate(genes, accuracy, origin)


def same_fronts(store: Store, search: str, spec: SearchSpec, log: Sequence[Event]) -> None:
    state = fold_all(log)
    for device in front_devices(spec):
        expected = front_of(spec, state, device=device or None)
        assert store.queries.front(search, device or None)[1] == expected
        on_front = {c.key for c in (*expected.members, *expected.baseline)}
        if state.candidates and device in {view or "" for view in spec.views}:
            page = store.queries.candidates(search, None, None, "position", 1000, None, device or None)
            assert {(c.origin, c.arch) for c in page.items if c.on_front} == on_front
    assert store.queries.search(search).hypervolume_history == list(state.hypervolume)


QUERIES: list[tuple[float | None, tuple[str, ...] | None]] = [
    (4.0, None),
    (None, ("accuracy", "params")),
    (6.0, ("latency", "accuracy")),
    (5.0, ("latency", "params")),
]


@pytest.mark.parametrize("name", SPECS)
def test_fronts_with_other_bounds_and_objectives_need_the_tested_candidates_alone(store: Store, name: str) -> None:
    spec, rng = SPECS[name], random.Random(f"queries {name}")
    search = fakes.add_search(store, spec)
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    log = random_log(spec, rng, 60)
    for done in range(0, len(log), 12):
        assert fakes.append(store, lease, log[done : done + 12], 1e6) == "continue"
        state = fold_all(log[: done + 12])
        for device in spec.devices if spec.fleet is not None else (None,):
            for bound_ms, objectives in QUERIES:
                deciding_spec, table, context = store.queries.deciding(search, objectives, device)
                found = compute_front(deciding_spec, table, context, objectives, bound_ms, device)
                assert found == front_of(spec, state, objectives, bound_ms, device)
    assert state.of("search")
    _, tested, _ = store.queries.deciding(search, None, None)
    assert (
        0 < len(tested) == sum("test_accuracy" in c.metrics for c in state.candidates.values()) < len(state.candidates)
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(4))
def test_stored_fronts_are_those_of_the_state(url: str, store: Store, tmp_path: Path, name: str, seed: int) -> None:
    spec, rng = SPECS[name], random.Random(f"{name} {seed}")
    search = fakes.add_search(store, spec)
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    log, done = random_log(spec, rng, 40), 0
    while done < len(log):
        size = rng.randint(1, 6)
        assert fakes.append(store, lease, log[done : done + size], 1e6) == "continue"
        done += size
        same_fronts(store, search, spec, log[:done])
    with writing(store.queries._engine) as session:
        rebuild_fronts(session, session.get_one(Job, search))
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as restarted:  # with nothing in memory
        same_fronts(restarted, search, spec, log)


def test_a_front_that_is_looked_at_again_is_read_from_memory(store: Store) -> None:
    search = fakes.add_search(store)
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None

    def append(*candidates: Candidate) -> None:
        assert fakes.append(store, lease, [Evaluated(candidates)], 1e6) == "continue"

    append(fakes.candidate((0, 0, 0), 50.0))
    first = store.queries.front(search)
    statements = rows_read(store.queries._engine)
    assert store.queries.front(search) == first
    assert not [statement for statement in statements if "front_members" in statement]
    append(fakes.candidate((1, 1, 1), 90.0))
    assert {c.arch.genes for c in store.queries.front(search)[1].members} == {(0, 0, 0), (1, 1, 1)}
    assert [statement for statement in statements if "front_members" in statement and "points.seq >" in statement]


def test_a_batch_that_fails_leaves_no_trace_in_memory(store: Store) -> None:
    search = fakes.add_search(store)
    lease = store.jobs.claim("worker", 1e6)
    assert lease is not None
    first = [Evaluated((fakes.candidate((0, 0, 0), 50.0),))]
    assert store.jobs.append(lease, 1, fakes.records(first), 1e6) == "continue"

    def fail(_session: object) -> None:
        raise RuntimeError("the commit fails")

    engine = store.queries._engine
    event.listen(engine, "commit", fail)
    lost = [Evaluated((fakes.candidate((1, 1, 1), 90.0),))]
    with pytest.raises(RuntimeError, match="commit fails"):
        store.jobs.append(lease, 2, fakes.records(lost), 1e6)
    event.remove(engine, "commit", fail)
    then = [Evaluated((fakes.candidate((0, 1, 0), 60.0),))]
    assert store.jobs.append(lease, 2, fakes.records(then), 1e6) == "continue"
    same_fronts(store, search, fakes.search_spec(), [*first, *then])


def test_members_are_read_alone_after_a_restart(url: str, store: Store, tmp_path: Path) -> None:
    search = fakes.add_search(store)
    fakes.run_log(store, fakes.search_log())
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as restarted:
        rows = rows_read(restarted.queries._engine)
        _, front = restarted.queries.front(search)
        assert {c.arch.genes for c in front.members} == {(3, 3, 3), (1, 1, 1)}
        assert not [statement for statement in rows if "points" in statement and "front_members" not in statement]


def rows_read(engine: Engine) -> list[str]:
    """The statements that are executed from now on."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return statements


def test_fronts_of_older_homes_are_computed_with_the_migration(url: str, store: Store, tmp_path: Path) -> None:
    search = fakes.add_search(store)
    fakes.run_log(store, fakes.search_log())
    before = store.queries.front(search), store.queries.search(search)
    with writing(store.queries._engine) as session:
        assert session.query(FrontMemberRow).count() > 0
    from alembic import command

    with store.queries._engine.execution_options(hwnas_write=True).begin() as connection:
        command.downgrade(migrate.alembic_config(connection), "0009")
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as restarted:
        assert (restarted.queries.front(search), restarted.queries.search(search)) == before
