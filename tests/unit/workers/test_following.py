"""Following a job, in simulated time: a task from a script, a real store on SQLite."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Event, Progress, StageStarted, Warned, encode
from nas.core.ports import Lease, Verdict
from server.store.store import Store, open_store
from tests.support import fakes
from workers import following
from workers.following import Ended, Follower, Records
from workers.stream import THIN_S, thin

Step = tuple[float, Sequence[Event] | Ended]
LEASE_S = 15.0


class Script:
    """A task that yields what it is told to, at seconds since its start, on a clock that it moves."""

    begun = True

    def __init__(self, clock: fakes.Clock, steps: Sequence[Step], do: Mapping[int, Callable[[], None]] | None = None):
        self.clock = clock
        self.begun = clock.now
        self.steps = list(steps)
        self.do = dict(do or {})
        self.given = 0

    def next(self, seconds: float) -> Records | Ended | None:
        if not self.steps or self.begun + self.steps[0][0] > self.clock.now + seconds:
            self.clock.pass_(seconds)
            return None
        at, what = self.steps.pop(0)
        self.clock.now = max(self.clock.now, self.begun + at)
        self.do.get(self.given, lambda: None)()
        self.given += 1
        return what if isinstance(what, Ended) else fakes.records(what)

    def kill(self) -> None: ...

    def dump(self) -> str:
        return ""


class Log:
    """The appends of a store, counted, and failing while ``away`` says so; ``answers`` are lost after the write."""

    def __init__(self, store: Store, clock: fakes.Clock) -> None:
        self.store = store
        self.clock = clock
        self.away: Callable[[], bool] = lambda: False
        self.answer_lost: Callable[[], bool] = lambda: False
        self.tries: list[tuple[float, int, int]] = []

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> Verdict:
        self.tries.append((self.clock.now, batch, len(events)))
        if self.away():
            raise StorageError("the database is away")
        verdict = self.store.jobs.append(lease, batch, events, seconds)
        if self.answer_lost():
            raise StorageError("the answer is lost")
        return verdict


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        fakes.add_search(opened)
        yield opened


@pytest.fixture
def kept(store: Store, clock: fakes.Clock) -> Log:
    return Log(store, clock)


@pytest.fixture
def lease(store: Store) -> Lease:
    found = store.jobs.claim("us", LEASE_S)
    assert found is not None
    return found


def follower(kept: Log, lease: Lease, task: Script, **changes: Any) -> Follower:
    given = {
        "held_until": kept.clock.now + LEASE_S,
        "lease_seconds": LEASE_S,
        "stuck_seconds": 600.0,
        "clock": kept.clock,
        "pause": kept.clock.pass_,
        "stuck": lambda: None,
    }
    return Follower(kept, lease, task, **{**given, **changes})


def written(store: Store, lease: Lease) -> list[str]:
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    return [e.body["kind"] for e in page.items if e.body["kind"] != "status"]


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint("train", step, "0" * 64)


def test_events_are_kept_soon_and_progress_more_slowly(
    kept: Log, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    progress = [(0.02 * i, [Progress("train", i, 100)]) for i in range(100)]  # two seconds
    script = Script(clock, [*progress, (2.0, [checkpoint(1)]), (2.0, Ended("succeeded"))])
    begun = clock.now
    assert follower(kept, lease, script).run() == Ended("succeeded")
    assert 7 <= len(kept.tries) <= 10  # every quarter of a second, and the end at once
    assert kept.tries[-1][0] - begun == pytest.approx(2.1, abs=0.15)
    assert written(store, lease)[-1] == "checkpoint"
    assert set(written(store, lease)) == {"progress", "checkpoint"}


def test_a_silent_job_keeps_its_lease(kept: Log, clock: fakes.Clock, lease: Lease) -> None:
    assert follower(kept, lease, Script(clock, [(300.0, Ended("succeeded"))])).run() == Ended("succeeded")
    assert len(kept.tries) == pytest.approx(300, abs=3)
    assert all(count == 0 for _, _, count in kept.tries)


def test_a_chatty_job_is_slowed_and_loses_nothing(kept: Log, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    events = [checkpoint(i) for i in range(4000)]
    script = Script(clock, [*((0.0, [e]) for e in events), (0.0, Ended("succeeded"))])
    begun = clock.now
    assert follower(kept, lease, script).run() == Ended("succeeded")
    times = [at for at, _, _ in kept.tries]
    assert all(later - sooner >= 0.099 for sooner, later in itertools.pairwise(times))
    assert max(count for _, _, count in kept.tries) == following.MAX_EVENTS
    assert clock.now - begun >= 4000 / following.MAX_EVENTS * following.URGENT_S * 0.9  # it had to wait
    steps = []
    seq = 0
    while page := store.queries.events(lease.job_id, seq, 1000)[0].items:
        steps += [e.body["step"] for e in page if e.body["kind"] == "checkpoint"]
        seq = page[-1].seq
    assert steps == list(range(4000))


def test_batches_are_bounded_in_bytes() -> None:
    events = fakes.records([Warned("train", "x" * 400_000)] * 6)
    sizes = []
    while events:
        batch, events = following.split(events)
        sizes.append(len(batch))
    assert sizes == [2, 2, 2]
    huge = fakes.records([Warned("train", "x" * 5_000_000), Warned("train", "y")])
    assert [len(part) for part in following.split(huge)] == [1, 1]


def test_only_progress_that_is_replaced_is_left_out() -> None:
    events = fakes.records(
        [
            Progress("a", 1, 9),
            StageStarted("b", 1, 2),
            Progress("b", 1, 9),
            Progress("a", 2, 9),
            Checkpoint("b", 1, "0" * 64),
            Progress("b", 2, 9),
        ]
    )
    assert following.coalesce(events) == [events[1], events[3], events[4], events[5]]


def test_a_worker_leaves_out_progress_that_comes_too_fast(clock: fakes.Clock) -> None:
    def job() -> Iterator[Records]:
        for i in range(1000):
            clock.pass_(THIN_S / 10)
            yield fakes.records([Progress("train", i, 1000)])
        yield fakes.records([checkpoint(1)])
        yield fakes.records([Progress("train", 1000, 1000)])

    batches = list(thin(job(), clock))
    assert 95 <= len(batches) <= 105
    flat = [e for batch in batches for e in batch]
    assert encode(checkpoint(1)) in flat
    assert [e["done"] for e in flat if e["kind"] == "progress"][-2:] == [999, 1000]  # the newest always arrives


def test_a_batch_is_tried_again_until_the_database_is_back(
    kept: Log, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    back = clock.now + 8.0
    kept.away = lambda: 0.5 < clock.now - back + 8.0 < 8.0
    script = Script(clock, [(i, [checkpoint(i)]) for i in range(1, 12)] + [(12.0, Ended("succeeded"))])
    assert follower(kept, lease, script).run() == Ended("succeeded")
    assert written(store, lease) == ["checkpoint"] * 11
    failed = [batch for at, batch, _ in kept.tries if 0.5 < at - back + 8.0 < 8.0]
    assert len(failed) >= 6
    assert len(set(failed)) == 1


def test_a_batch_whose_answer_was_lost_is_not_written_twice(
    kept: Log, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    kept.answer_lost = lambda: len(kept.tries) % 2 == 1
    script = Script(clock, [*((3.0 * i, [checkpoint(i)]) for i in range(1, 5)), (15.0, Ended("succeeded"))])
    assert follower(kept, lease, script).run() == Ended("succeeded")
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    assert [e.body["step"] for e in page.items if e.body["kind"] == "checkpoint"] == [1, 2, 3, 4]


def test_a_job_is_given_up_when_its_lease_passes_while_the_database_is_away(
    kept: Log, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    kept.away = lambda: True
    begun = clock.now
    ended = follower(kept, lease, Script(clock, [(1.0, [checkpoint(1)])])).run()
    assert ended.how == "lost"
    assert "the database is away" in (ended.message or "")
    assert LEASE_S <= clock.now - begun <= LEASE_S + 2.0
    assert written(store, lease) == []
    assert store.jobs.claim("another", LEASE_S) is not None  # the job is left to its expiry


def test_one_that_slept_past_its_lease_writes_nothing(
    kept: Log, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    """As after SIGSTOP or a suspended machine, whether or not somebody else has the job by now."""
    script = Script(clock, [(1.0, [checkpoint(1)]), (2.0, [checkpoint(2)])], {1: lambda: clock.pass_(LEASE_S + 1.0)})
    assert follower(kept, lease, script).run().how == "lost"
    assert written(store, lease) == ["checkpoint"]
    second = store.jobs.claim("another", LEASE_S)
    assert second is not None
    assert follower(kept, lease, Script(clock, [(0.5, [checkpoint(3)])])).run().how == "lost"
    assert written(store, lease) == ["checkpoint"]
    assert store.jobs.append(second, 1, fakes.records([checkpoint(9)]), LEASE_S) == "continue"


def test_stop_and_lost_end_it(kept: Log, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    class Answers:
        def __init__(self, verdict: Verdict) -> None:
            self.verdict = verdict

        def append(self, *_: Any) -> Verdict:
            return self.verdict

    for verdict, how in (("stop", "parked"), ("lost", "lost")):
        one = follower(kept, lease, Script(clock, [(0.5, [checkpoint(1)])]))
        one._jobs = Answers(verdict)  # type: ignore[arg-type]
        assert one.run() == Ended(how)  # type: ignore[arg-type]


def test_leaving_waits_for_the_next_durable_result(kept: Log, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    steps: list[Step] = [
        (1.0, [checkpoint(1)]),
        (2.0, [Progress("train", 2, 9)]),  # here it is told
        (5.0, [Progress("train", 5, 9)]),
        (7.0, [checkpoint(7)]),
        (8.0, [checkpoint(8)]),
    ]
    begun = clock.now
    script = Script(clock, steps, {1: lambda: one.leave(12.0)})
    one = follower(kept, lease, script)
    assert one.run() == Ended("stopped")
    assert clock.now - begun == pytest.approx(7.0, abs=1.0)
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    assert [e.body["step"] for e in page.items if e.body["kind"] == "checkpoint"] == [1, 7]


def test_leaving_does_not_wait_for_ever(kept: Log, clock: fakes.Clock, lease: Lease) -> None:
    begun = clock.now
    script = Script(clock, [(1.0, [Progress("train", 1, 9)])], {0: lambda: one.leave(12.0)})
    one = follower(kept, lease, script)
    assert one.run() == Ended("stopped")
    assert 12.5 <= clock.now - begun <= 13.5
    one = follower(kept, lease, Script(clock, []), held_until=clock.now + 100.0)
    kept.away = lambda: True
    one.leave(12.0)
    begun = clock.now
    assert one.run().how == "lost"
    assert clock.now - begun <= 13.5


def test_one_that_is_given_up_writes_nothing_more(kept: Log, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    script = Script(clock, [(1.0, [checkpoint(1)])], {0: lambda: one.give_up("crashed", "gone")})
    one = follower(kept, lease, script)
    assert one.run() == Ended("crashed", "gone")
    assert written(store, lease) == []


def test_a_job_without_news_is_reported_once(kept: Log, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    looked = threading.Semaphore(0)
    steps: list[Step] = [(1.0, [StageStarted("train", 0, 1)]), (200.0, [checkpoint(1)]), (500.0, Ended("succeeded"))]
    one = follower(kept, lease, Script(clock, steps), stuck_seconds=60.0, stuck=looked.release)
    assert one.run() == Ended("succeeded")
    assert written(store, lease) == ["stage_started", "warned", "checkpoint", "warned"]  # once per silence
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    [first, _] = [e for e in page.items if e.body["kind"] == "warned"]
    assert first.body["stage"] == "train"
    assert "60 s" in first.body["message"]
    assert first.at.timestamp() - clock.now + 500.0 == pytest.approx(61.0, abs=2.0)
    assert looked.acquire(blocking=False)
    assert looked.acquire(blocking=False)
    assert not looked.acquire(blocking=False)
