"""Attempts at a job in simulated time: a scripted job, a real store on SQLite."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Event, Progress, StageStarted, Warned, encode
from nas.core.jobs import AppendOutcome, Lease, LeaseToken
from server.store.store import Store, open_store
from tests.support import fakes
from workers import attempt
from workers.attempt import AttemptOutcome, AttemptRunner, EventBatch
from workers.lease_keeper import LeaseKeeper
from workers.stream import PROGRESS_INTERVAL_S, throttle_progress

ScriptStep = tuple[float, Sequence[Event] | AttemptOutcome]
LEASE_S = 15.0


class ScriptedJob:
    """A running job that yields scripted messages at seconds since its start, and advances the clock."""

    has_started = True

    def __init__(
        self, clock: fakes.Clock, steps: Sequence[ScriptStep], hooks: Mapping[int, Callable[[], None]] | None = None
    ):
        self.clock = clock
        self.started_at = clock.now
        self.steps = list(steps)
        self.hooks = dict(hooks or {})
        self.count = 0

    def poll(self, timeout_s: float) -> EventBatch | AttemptOutcome | None:
        if not self.steps or self.started_at + self.steps[0][0] > self.clock.now + timeout_s:
            self.clock.pass_(timeout_s)
            return None
        at, message = self.steps.pop(0)
        self.clock.now = max(self.clock.now, self.started_at + at)
        self.hooks.get(self.count, lambda: None)()
        self.count += 1
        return message if isinstance(message, AttemptOutcome) else fakes.records(message)

    def kill(self) -> None: ...

    def dump_stacks(self) -> str:
        return ""


class KeptJob(ScriptedJob):
    """A scripted job whose lease is renewed whenever it is waited for."""

    keeper: LeaseKeeper

    def poll(self, timeout_s: float) -> EventBatch | AttemptOutcome | None:
        self.keeper.renew()
        return super().poll(timeout_s)


class FlakyEventLog:
    """The appends of a store, recorded; fails before the write while ``down()``, and after it if
    ``response_lost()``."""

    def __init__(self, store: Store, clock: fakes.Clock) -> None:
        self.store = store
        self.clock = clock
        self.down: Callable[[], bool] = lambda: False
        self.response_lost: Callable[[], bool] = lambda: False
        self.appends: list[tuple[float, int, int]] = []

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> AppendOutcome:
        self.appends.append((self.clock.now, batch, len(events)))
        if self.down():
            raise StorageError("the database is away")
        answer = self.store.jobs.append(lease, batch, events, seconds)
        if self.response_lost():
            raise StorageError("the answer is lost")
        return answer


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
def event_log(store: Store, clock: fakes.Clock) -> FlakyEventLog:
    return FlakyEventLog(store, clock)


@pytest.fixture
def lease(store: Store) -> Lease:
    claimed = store.jobs.claim("us", LEASE_S)
    assert claimed is not None
    return claimed


def runner(event_log: FlakyEventLog, lease: Lease, job: ScriptedJob, **changes: Any) -> AttemptRunner:
    options = {
        "lease_deadline": event_log.clock.now + LEASE_S,
        "lease_seconds": LEASE_S,
        "stuck_seconds": 600.0,
        "clock": event_log.clock,
        "sleep": event_log.clock.pass_,
        "on_silence": lambda: None,
    }
    return AttemptRunner(event_log, lease, job, **{**options, **changes})


def written(store: Store, lease: Lease) -> list[str]:
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    return [e.body["kind"] for e in page.items if e.body["kind"] != "status"]


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint("train", step, "0" * 64)


def test_durable_events_are_appended_soon_and_progress_later(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    progress = [(0.02 * i, [Progress("train", i, 100)]) for i in range(100)]  # two seconds
    script = ScriptedJob(clock, [*progress, (2.0, [checkpoint(1)]), (2.0, AttemptOutcome("succeeded"))])
    start_s = clock.now
    assert runner(event_log, lease, script).run() == AttemptOutcome("succeeded")
    assert 7 <= len(event_log.appends) <= 10  # every quarter of a second, and the end at once
    assert event_log.appends[-1][0] - start_s == pytest.approx(2.1, abs=0.15)
    assert written(store, lease)[-1] == "checkpoint"
    assert set(written(store, lease)) == {"progress", "checkpoint"}


def test_silent_job_keeps_its_lease(event_log: FlakyEventLog, clock: fakes.Clock, lease: Lease) -> None:
    script = KeptJob(clock, [(300.0, AttemptOutcome("succeeded"))])
    one = runner(event_log, lease, script)
    script.keeper = LeaseKeeper(event_log.store.jobs, LEASE_S, clock)
    script.keeper.add(LeaseToken(lease.job_id, lease.token), one)
    assert one.run() == AttemptOutcome("succeeded")
    assert [count for _, _, count in event_log.appends] == [0]  # at the end, while it was silent none


def test_attempt_is_lost_if_its_lease_is_not_renewed(
    event_log: FlakyEventLog, clock: fakes.Clock, lease: Lease
) -> None:
    started_at = clock.now
    ended = runner(event_log, lease, ScriptedJob(clock, [(300.0, AttemptOutcome("succeeded"))])).run()
    assert ended == AttemptOutcome("lost", "its lease could not be renewed")
    assert clock.now - started_at == pytest.approx(LEASE_S, abs=1.1)


def test_attempt_of_a_silent_job_is_aborted_when_it_is_cancelled(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    script = KeptJob(clock, [(300.0, AttemptOutcome("succeeded"))])
    one = runner(event_log, lease, script)
    script.keeper = LeaseKeeper(store.jobs, LEASE_S, clock)
    script.keeper.add(LeaseToken(lease.job_id, lease.token), one)
    store.jobs.cancel(lease.job_id)
    assert one.run().status == "lost"
    assert event_log.appends == []


def test_many_leases_are_renewed_in_one_transaction(store: Store, clock: fakes.Clock, lease: Lease) -> None:
    others = []
    for _ in range(3):
        fakes.add_search(store)
        other = store.jobs.claim("us", LEASE_S)
        assert other is not None
        others.append(LeaseToken(other.job_id, other.token))
    store.jobs.cancel(others[0].job_id)
    commits: list[object] = []
    event.listen(store.queries._engine, "commit", commits.append)
    clock.pass_(LEASE_S - 1.0)
    assert store.jobs.renew([LeaseToken(lease.job_id, lease.token), *others], LEASE_S) == [others[0]]
    assert len(commits) == 1
    clock.pass_(LEASE_S - 1.0)
    assert store.jobs.claim("another", LEASE_S) is None


def test_hanging_worker_has_its_attempt_ended_with_its_stacks_in_the_log(
    event_log: FlakyEventLog, clock: fakes.Clock, lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    script = KeptJob(clock, [(1.0, [StageStarted("train", 0, 1)])])
    script.dump_stacks = lambda: "in a lock"  # type: ignore[method-assign]
    started_at = clock.now
    one = runner(event_log, lease, script, stuck_seconds=60.0, hang_seconds=900.0)
    script.keeper = LeaseKeeper(event_log.store.jobs, LEASE_S, clock)
    script.keeper.add(LeaseToken(lease.job_id, lease.token), one)
    ended = one.run()
    assert ended == AttemptOutcome("crashed", "no news from its worker for 900 s")
    assert clock.now - started_at == pytest.approx(901.0, abs=2.0)
    assert "in a lock" in caplog.text


def test_backpressure_slows_a_job_without_losing_events(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    events = [checkpoint(i) for i in range(4000)]
    script = ScriptedJob(clock, [*((0.0, [e]) for e in events), (0.0, AttemptOutcome("succeeded"))])
    start_s = clock.now
    assert runner(event_log, lease, script).run() == AttemptOutcome("succeeded")
    times = [at for at, _, _ in event_log.appends]
    assert all(later - sooner >= 0.099 for sooner, later in itertools.pairwise(times))
    assert max(count for _, _, count in event_log.appends) == attempt.MAX_EVENTS
    assert clock.now - start_s >= 4000 / attempt.MAX_EVENTS * attempt.MIN_INTERVAL_S * 0.9  # it had to wait
    steps = []
    seq = 0
    while page := store.queries.events(lease.job_id, seq, 1000)[0].items:
        steps += [e.body["step"] for e in page if e.body["kind"] == "checkpoint"]
        seq = page[-1].seq
    assert steps == list(range(4000))


def test_batches_are_limited_in_bytes() -> None:
    events = fakes.records([Warned("train", "x" * 400_000)] * 6)
    sizes = []
    while events:
        batch, events = attempt.split_batch(events)
        sizes.append(len(batch))
    assert sizes == [2, 2, 2]
    huge = fakes.records([Warned("train", "x" * 5_000_000), Warned("train", "y")])
    assert [len(part) for part in attempt.split_batch(huge)] == [1, 1]


def test_only_superseded_progress_is_dropped() -> None:
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
    assert attempt.coalesce_progress(events) == [events[1], events[3], events[4], events[5]]


def test_worker_throttles_progress(clock: fakes.Clock) -> None:
    def job() -> Iterator[EventBatch]:
        for i in range(1000):
            clock.pass_(PROGRESS_INTERVAL_S / 10)
            yield fakes.records([Progress("train", i, 1000)])
        yield fakes.records([checkpoint(1)])
        yield fakes.records([Progress("train", 1000, 1000)])

    batches = list(throttle_progress(job(), clock))
    assert 95 <= len(batches) <= 105
    flat = [e for batch in batches for e in batch]
    assert encode(checkpoint(1)) in flat
    assert [e["done"] for e in flat if e["kind"] == "progress"][-2:] == [999, 1000]  # the newest always arrives


def test_batch_is_retried_until_the_database_is_available(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    back = clock.now + 8.0
    event_log.down = lambda: 0.5 < clock.now - back + 8.0 < 8.0
    script = ScriptedJob(clock, [(i, [checkpoint(i)]) for i in range(1, 12)] + [(12.0, AttemptOutcome("succeeded"))])
    assert runner(event_log, lease, script).run() == AttemptOutcome("succeeded")
    assert written(store, lease) == ["checkpoint"] * 11
    failed = [batch for at, batch, _ in event_log.appends if 0.5 < at - back + 8.0 < 8.0]
    assert len(failed) >= 6
    assert len(set(failed)) == 1


def test_batch_with_lost_response_is_written_once(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    event_log.response_lost = lambda: len(event_log.appends) % 2 == 1
    script = ScriptedJob(
        clock, [*((3.0 * i, [checkpoint(i)]) for i in range(1, 5)), (15.0, AttemptOutcome("succeeded"))]
    )
    assert runner(event_log, lease, script).run() == AttemptOutcome("succeeded")
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    assert [e.body["step"] for e in page.items if e.body["kind"] == "checkpoint"] == [1, 2, 3, 4]


def test_attempt_is_lost_if_the_lease_expires_while_the_database_is_down(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    event_log.down = lambda: True
    start_s = clock.now
    ended = runner(event_log, lease, ScriptedJob(clock, [(1.0, [checkpoint(1)])])).run()
    assert ended.status == "lost"
    assert "the database is away" in (ended.message or "")
    assert LEASE_S <= clock.now - start_s <= LEASE_S + 2.0
    assert written(store, lease) == []
    assert store.jobs.claim("another", LEASE_S) is not None  # after its lease has expired


def test_attempt_that_slept_past_its_lease_writes_nothing(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    """As after SIGSTOP or on a suspended machine, whether or not another worker has claimed the job."""
    script = ScriptedJob(
        clock, [(1.0, [checkpoint(1)]), (2.0, [checkpoint(2)])], {1: lambda: clock.pass_(LEASE_S + 1.0)}
    )
    assert runner(event_log, lease, script).run().status == "lost"
    assert written(store, lease) == ["checkpoint"]
    second = store.jobs.claim("another", LEASE_S)
    assert second is not None
    assert runner(event_log, lease, ScriptedJob(clock, [(0.5, [checkpoint(3)])])).run().status == "lost"
    assert written(store, lease) == ["checkpoint"]
    assert store.jobs.append(second, 1, fakes.records([checkpoint(9)]), LEASE_S) == "continue"


def test_stop_and_lost_end_the_attempt(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    class FixedAnswer:
        def __init__(self, answer: AppendOutcome) -> None:
            self.answer = answer

        def append(self, *_: Any) -> AppendOutcome:
            return self.answer

    for answer, status in (("stop", "parked"), ("lost", "lost")):
        one = runner(event_log, lease, ScriptedJob(clock, [(0.5, [checkpoint(1)])]))
        one._event_log = FixedAnswer(answer)  # type: ignore[arg-type]
        assert one.run() == AttemptOutcome(status)  # type: ignore[arg-type]


def test_stop_waits_for_the_next_durable_result(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    steps: list[ScriptStep] = [
        (1.0, [checkpoint(1)]),
        (2.0, [Progress("train", 2, 9)]),  # stop is called here
        (5.0, [Progress("train", 5, 9)]),
        (7.0, [checkpoint(7)]),
        (8.0, [checkpoint(8)]),
    ]
    start_s = clock.now
    script = ScriptedJob(clock, steps, {1: lambda: one.stop(12.0)})
    one = runner(event_log, lease, script)
    assert one.run() == AttemptOutcome("stopped")
    assert clock.now - start_s == pytest.approx(7.0, abs=1.0)
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    assert [e.body["step"] for e in page.items if e.body["kind"] == "checkpoint"] == [1, 7]


def test_stop_waits_at_most_the_grace_period(event_log: FlakyEventLog, clock: fakes.Clock, lease: Lease) -> None:
    start_s = clock.now
    script = ScriptedJob(clock, [(1.0, [Progress("train", 1, 9)])], {0: lambda: one.stop(12.0)})
    one = runner(event_log, lease, script)
    assert one.run() == AttemptOutcome("stopped")
    assert 12.5 <= clock.now - start_s <= 13.5
    one = runner(event_log, lease, ScriptedJob(clock, []), lease_deadline=clock.now + 100.0)
    event_log.down = lambda: True
    one.stop(12.0)
    start_s = clock.now
    assert one.run().status == "lost"
    assert clock.now - start_s <= 13.5


def test_aborted_attempt_writes_nothing_more(
    event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease
) -> None:
    script = ScriptedJob(clock, [(1.0, [checkpoint(1)])], {0: lambda: one.abort("crashed", "gone")})
    one = runner(event_log, lease, script)
    assert one.run() == AttemptOutcome("crashed", "gone")
    assert written(store, lease) == []


def test_silence_is_reported_once(event_log: FlakyEventLog, store: Store, clock: fakes.Clock, lease: Lease) -> None:
    reported = threading.Semaphore(0)
    steps: list[ScriptStep] = [
        (1.0, [StageStarted("train", 0, 1)]),
        (200.0, [checkpoint(1)]),
        (500.0, AttemptOutcome("succeeded")),
    ]
    script = KeptJob(clock, steps)
    one = runner(event_log, lease, script, stuck_seconds=60.0, on_silence=reported.release)
    script.keeper = LeaseKeeper(store.jobs, LEASE_S, clock)
    script.keeper.add(LeaseToken(lease.job_id, lease.token), one)
    assert one.run() == AttemptOutcome("succeeded")
    assert written(store, lease) == ["stage_started", "warned", "checkpoint", "warned"]  # once per silence
    page, _ = store.queries.events(lease.job_id, 0, 1000)
    [first, _] = [e for e in page.items if e.body["kind"] == "warned"]
    assert first.body["stage"] == "train"
    assert "60 s" in first.body["message"]
    assert first.at.timestamp() - clock.now + 500.0 == pytest.approx(61.0, abs=2.0)
    assert reported.acquire(blocking=False)
    assert reported.acquire(blocking=False)
    assert not reported.acquire(blocking=False)
