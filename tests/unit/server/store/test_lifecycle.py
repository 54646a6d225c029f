"""The life of jobs against a small model of it: whatever is asked in whatever order, the log tells one legal story."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from nas.core.access import LOCAL, Principal
from nas.core.errors import Conflict, InvalidInput, NotFound, QuotaExceeded
from nas.core.events import Checkpoint, Event, Progress, StageStarted, StatusChanged, Warned
from nas.core.jobs import Lease
from nas.core.lifecycle import (
    ALLOWED_STATUSES,
    LEASED,
    NO_EFFECT_STATUSES,
    STATUSES,
    TRANSITIONS,
    JobCommand,
    check_command,
    check_transition,
)
from nas.schemas.administration import QuotaLimits
from server.store.jobs import MAX_STALLED
from server.store.queue import FAVOUR_INTERVAL_S
from server.store.quotas import DRY_RUNS_AT_ONCE
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.databases import postgres_url

SECONDS = 10.0
DURABLE = Checkpoint("train", 1, "0" * 64)


def test_every_status_is_reachable_and_commands_are_legal_transitions() -> None:
    assert set(TRANSITIONS) == set(STATUSES)
    assert {after for afters in TRANSITIONS.values() for after in afters} == set(STATUSES) - set()
    goals: dict[JobCommand, set[str]] = {
        "pause": {"pausing", "paused"},
        "resume": {"running", "queued"},
        "cancel": {"cancelled"},
        "retry": {"queued"},
    }
    for verb, after in goals.items():
        for status in ALLOWED_STATUSES[verb]:
            assert TRANSITIONS[status] & after, (verb, status)
    with pytest.raises(Conflict, match="succeeded and cannot become running"):
        check_transition("j", "succeeded", "running")
    with pytest.raises(Conflict, match="expected one that is cancelled or failed or quarantined, it is succeeded"):
        check_command("j", "retry", "succeeded")
    assert not check_command("j", "cancel", "cancelled")


class Life(RuleBasedStateMachine):
    """Two searches, two dispatchers, and people who ask for things at any time."""

    leases = Bundle("leases")
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.clock = fakes.Clock()
        self.model: dict[str, str] = {}
        self.stalled: dict[str, int] = {}
        self.live: dict[str, tuple[Lease, float]] = {}  # the lease that holds, and until when
        self.steps = 0

    @contextmanager
    def open(self) -> Iterator[Store]:
        with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/db", folder, self.clock) as store:
            yield store

    @initialize()
    def begin(self) -> None:
        self.store = self.stack.enter_context(self.open())
        fakes.add_device(self.store)
        for _ in range(2):
            search = fakes.add_search(self.store)
            self.model[search], self.stalled[search] = "queued", 0
            self.clock.pass_(1.0)

    def teardown(self) -> None:
        self.stack.close()

    # People

    @rule(data=st.data(), verb=st.sampled_from(["pause", "resume", "cancel", "retry"]))
    def ask(self, data: st.DataObject, verb: JobCommand) -> None:
        if not self.model:
            return
        job = data.draw(st.sampled_from(list(self.model)))  # in order of submission: identifiers are random
        self._expire(job)
        status: Any = self.model[job]
        call = getattr(self.store.jobs, verb)
        if status in NO_EFFECT_STATUSES[verb]:
            call(job)
            return
        if status not in ALLOWED_STATUSES[verb]:
            with pytest.raises(Conflict):
                call(job)
            return
        call(job)
        after = {
            "pause": "pausing" if status == "running" else "paused",
            "resume": "running" if status == "pausing" else "queued",
            "cancel": "cancelled",
            "retry": "queued",
        }[verb]
        self.model[job] = after
        if verb == "retry":
            self.stalled[job] = 0
        if after not in LEASED:
            self.live.pop(job, None)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if not self.model:
            return
        job = data.draw(st.sampled_from(list(self.model)))  # in order of submission: identifiers are random
        self._expire(job)
        if self.model[job] in ALLOWED_STATUSES["delete"]:
            self.store.jobs.delete(job)
            del self.model[job]
            with pytest.raises(NotFound):
                self.store.queries.search(job)
        else:
            with pytest.raises(Conflict):
                self.store.jobs.delete(job)

    # Time and dispatchers

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.pass_(seconds)

    @rule(target=leases, worker=st.sampled_from(["w1", "w2"]))
    def claim(self, worker: str) -> Any:
        for job in list(self.model):
            self._expire(job)
        lease = self.store.jobs.claim(worker, SECONDS)
        for job, status in self.model.items():
            if status == "queued" and self.stalled[job] >= MAX_STALLED and (lease is None or lease.job_id != job):
                view = self.store.queries.search(job)
                assert view.status in ("queued", "quarantined")  # another one may have come first
                self.model[job] = view.status
        if lease is None:
            assert "queued" not in self.model.values()
            return multiple()
        assert self.model[lease.job_id] == "queued"
        assert self.stalled[lease.job_id] < MAX_STALLED
        self.model[lease.job_id] = "running"
        self.stalled[lease.job_id] += 1
        self.live[lease.job_id] = (lease, self.clock() + SECONDS)
        assert lease.token == self.store.queries.search(lease.job_id).attempts
        return lease

    @rule(lease=leases, event=st.sampled_from([DURABLE, Progress("train", 1, 9), Warned("train", "hot"), None]))
    def append(self, lease: Lease, event: Event | None) -> None:
        holds = self._holds(lease)
        before = self._events(lease.job_id)
        self.steps += 1
        if event is DURABLE:
            event = Checkpoint("train", self.steps, "0" * 64)
        verdict = (
            fakes.append(self.store, lease, [event] if event else [], SECONDS)
            if holds
            else (self.store.jobs.append(lease, 10_000, fakes.records([event] if event else []), SECONDS))
        )
        if not holds:
            assert verdict == "lost"
            assert self._events(lease.job_id) == before
            return
        self.live[lease.job_id] = (lease, self.clock() + SECONDS)
        if isinstance(event, Checkpoint):
            self.stalled[lease.job_id] = 0
            if self.model[lease.job_id] == "pausing":
                assert verdict == "stop"
                self.model[lease.job_id] = "paused"
                del self.live[lease.job_id]
                return
        assert verdict == "continue"
        assert self._events(lease.job_id) == before + (event is not None)

    @rule(lease=leases)
    def append_again(self, lease: Lease) -> None:
        """The answer to a batch was lost, so it is sent again."""
        before = self._events(lease.job_id)
        holds = self._holds(lease)
        number = fakes._batches[lease.job_id, lease.token]
        if holds and number == 0:
            return
        verdict = self.store.jobs.append(lease, number, fakes.records([Warned("train", "again")]), SECONDS)
        assert verdict in (("continue",) if holds else ("lost", "stop"))
        assert self._events(lease.job_id) == before
        if holds:
            self.live[lease.job_id] = (lease, self.clock() + SECONDS)

    @rule(lease=leases)
    def claim_a_status(self, lease: Lease) -> None:
        with pytest.raises(InvalidInput, match="do not set the status"):
            self.store.jobs.append(lease, 1, fakes.records([StatusChanged("running", "succeeded")]), SECONDS)

    @rule(lease=leases, status=st.sampled_from(["succeeded", "failed"]))
    def finish(self, lease: Lease, status: Any) -> None:
        holds = self._holds(lease)
        done = self.store.jobs.finish(lease, status, "a reason" if status == "failed" else None)
        if holds:
            assert done
            self.model[lease.job_id] = status
            del self.live[lease.job_id]
            assert self.store.jobs.finish(lease, status), "asking again after a lost answer"

    @rule(lease=leases, crash=st.sampled_from([None, "killed"]))
    def release(self, lease: Lease, crash: str | None) -> None:
        holds = self._holds(lease)
        assert self.store.jobs.release(lease, crash) == holds
        if holds:
            self._give_back(lease.job_id)
            if crash is None:
                self.stalled[lease.job_id] = max(0, self.stalled[lease.job_id] - 1)

    @rule(worker=st.sampled_from(["w1", "w2"]))
    def restart(self, worker: str) -> None:
        self.store.jobs.release_dead(lambda owner: owner == worker)
        for job in list(self.model):
            if self.model[job] in LEASED and self.store.queries.search(job).status not in LEASED:
                self._give_back(job)

    @invariant()
    def the_log_tells_the_status(self) -> None:
        for job, status in self.model.items():
            page, _ = self.store.queries.events(job, 0, 1000)
            changes = [item.body for item in page.items if item.body["kind"] == "status"]
            assert (changes[0]["before"], changes[0]["after"]) == (None, "queued")
            for a, b in itertools.pairwise(changes):
                assert a["after"] == b["before"]
                assert b["after"] in TRANSITIONS[b["before"]]
            view = self.store.queries.search(job)
            assert view.status == changes[-1]["after"] == status
            assert [item.seq for item in page.items] == list(range(1, view.last_event + 1))
            assert (view.error is not None) == (status in ("failed", "quarantined"))
            assert (view.finished_at is not None) == (status in ("succeeded", "failed", "cancelled", "quarantined"))
            assert (view.waiting is not None) == (status == "queued")

    def _events(self, job: str) -> int:
        try:
            return self.store.queries.search(job).last_event
        except NotFound:
            return -1

    def _holds(self, lease: Lease) -> bool:
        live = self.live.get(lease.job_id)
        return live is not None and live[0].token == lease.token and self.clock() < live[1]

    def _expire(self, job: str) -> None:
        """A passed lease takes effect when somebody next claims; the model lets the store do so now."""
        live = self.live.get(job)
        if live is not None and self.clock() >= live[1]:
            self.store.jobs.claim("nobody", SECONDS, free=[])
            for other, (_, until) in list(self.live.items()):
                if self.clock() >= until:
                    self._give_back(other)

    def _give_back(self, job: str) -> None:
        self.model[job] = "paused" if self.model[job] == "pausing" else "queued"
        del self.live[job]


def lives(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_any_job_history_on_sqlite() -> None:
    run_state_machine_as_test(Life, settings=lives(15, 40))


@pytest.mark.long
@pytest.mark.postgres
def test_any_job_history_on_postgresql(tmp_path: Path, postgres: str) -> None:
    names = itertools.count()

    class OnPostgres(Life):
        @contextmanager
        def open(self) -> Iterator[Store]:
            with open_store(postgres_url(postgres, f"life{next(names)}"), str(tmp_path), self.clock) as store:
                yield store

    run_state_machine_as_test(OnPostgres, settings=lives(5, 30))


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path), clock) as opened:
        fakes.add_device(opened)
        yield opened


def test_full_queue_rejects_with_the_quota(store: Store) -> None:
    store.quotas.set("local", QuotaLimits(max_queued=1), LOCAL)
    first = fakes.add_search(store)
    with pytest.raises(QuotaExceeded, match="local may have 1 job in the queue and has 1"):
        fakes.add_search(store)
    store.jobs.cancel(first)
    fakes.add_search(store)
    with pytest.raises(QuotaExceeded):
        store.jobs.retry(first)
    assert store.quotas.view("local").queued == 1
    assert [r.action for r in store.audit.page(2).items] == ["submit search", "cancel search"]


def test_owner_at_its_limit_waits_with_the_reason(store: Store, clock: fakes.Clock) -> None:
    store.quotas.set("local", QuotaLimits(max_running=1), LOCAL)
    store.jobs.heartbeat("w", 1)
    fakes.add_search(store)
    clock.pass_(1.0)
    second = fakes.add_search(store)
    assert store.queries.search(second).waiting == "position 2 of 2"
    assert store.jobs.claim("w", 10.0) is not None
    assert store.jobs.claim("w", 10.0) is None
    waiting = store.queries.search(second).waiting
    assert waiting == "waiting for one of local's 1 running jobs to end (its quota), position 1 of 1"


def submit_dry_run(store: Store, name: str = "dry", by: Principal = LOCAL, gpus: int = 0) -> str:
    spec = fakes.search_spec(name=name, resources={"gpus": gpus})
    return store.jobs.submit(spec, None, dry_run=True, space_id="tiny-0-10", by=by)


def test_quotas_count_every_kind_of_job(store: Store) -> None:
    store.quotas.set("ada", QuotaLimits(max_queued=0, max_running=0, gpu_hours=0.0), LOCAL)
    ada = Principal("ada", frozenset({"device", "submit"}))
    for spec, dry_run in (
        (fakes.search_spec(), False),
        (fakes.search_spec(), True),
        (fakes.device_spec(name="hers"), False),
    ):
        with pytest.raises(QuotaExceeded):
            store.jobs.submit(spec, None, dry_run=dry_run, space_id="tiny-0-10", by=ada)
    store.quotas.set("ada", QuotaLimits(max_running=1), LOCAL)
    onboarding = fakes.device_spec(name="hers")
    store.jobs.submit(onboarding, None, by=ada)
    submit_dry_run(store, by=ada)
    assert store.quotas.view("ada").queued == 2
    assert store.jobs.claim("w", 10.0) is not None
    assert store.quotas.view("ada").running == 1
    assert store.jobs.claim("w", 10.0) is None  # neither a dry run nor an onboarding runs beside the only job


def test_dry_runs_of_one_owner_are_few_at_a_time(store: Store) -> None:
    for n in range(DRY_RUNS_AT_ONCE):
        submit_dry_run(store, f"dry {n}")
    with pytest.raises(QuotaExceeded, match="dry runs of local wait or run already"):
        submit_dry_run(store, "one more")
    submit_dry_run(store, by=Principal("ada", frozenset({"submit"})))


def test_stream_of_dry_runs_does_not_starve_the_queue(store: Store, clock: fakes.Clock) -> None:
    search = fakes.add_search(store)
    bob = Principal("bob", frozenset({"submit"}))
    claimed = []
    for n in range(3):
        clock.pass_(1.0)
        dry_run = submit_dry_run(store, f"dry {n}", by=bob)
        lease = store.jobs.claim("w", 10.0)
        assert lease is not None
        claimed.append(lease.job_id)
        store.jobs.discard(dry_run)
    assert claimed[1] == search  # the first dry run goes before it, the second does not
    clock.pass_(FAVOUR_INTERVAL_S)
    fakes.add_search(store, fakes.search_spec(name="another"))
    dry_run = submit_dry_run(store, "dry again", by=bob)
    lease = store.jobs.claim("w", 10.0)
    assert lease is not None
    assert lease.job_id == dry_run


def test_search_that_uses_up_the_gpu_hours_is_paused(store: Store, clock: fakes.Clock) -> None:
    store.quotas.set("local", QuotaLimits(gpu_hours=1.0), LOCAL)
    search = fakes.add_search(store, fakes.search_spec(resources={"gpus": 2}))
    lease = store.jobs.claim("w", 1e6)
    assert lease is not None
    clock.pass_(1700.0)
    assert fakes.append(store, lease, [StageStarted("train", 0, 1)], 1e6) == "continue"
    clock.pass_(200.0)  # 1,900 s on 2 GPUs are more than an hour
    outcome = fakes.append(store, lease, [Checkpoint("train", 1, "0" * 64)], 1e6)
    assert outcome == "stop"
    paused = store.queries.search(search)
    assert paused.status == "paused"
    reasons = [e.body["reason"] for e in store.queries.events(search, 0, 100, "status")[0].items]
    assert "local has used up the GPU-hours of the quota" in reasons
    store.jobs.resume(search)
    assert store.jobs.claim("w", 10.0) is None
    assert "has used 1.06 of 1 GPU-hours" in str(store.queries.search(search).waiting)
    store.quotas.set("local", QuotaLimits(gpu_hours=2.0), LOCAL)
    assert store.jobs.claim("w", 10.0) is not None
