"""The page of a running search: what it calls, and that it shows what the service has."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from nas.client import Client, Unreachable
from nas.core.events import Candidate, Evaluated, Event, HypervolumeAt, Measured, Progress, StageFinished, StageStarted
from nas.core.jobs import Lease
from nas.schemas.jobs import EventSchema
from server.api.app import create_app
from server.dashboard.layout import HEADER_REFRESH_S
from server.dashboard.polling import ACTIVE_S
from server.dashboard.search.candidate_list import LIMIT
from server.dashboard.search.reader import SearchPageReader
from server.dashboard.search.view_model import SearchSnapshot
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes

HEADER_CALLS = 2  # health and principal
CANDIDATES = 5000


class CountingTransport(httpx.BaseTransport):
    """Passes requests to the service in this process, and counts them by path."""

    def __init__(self, service: TestClient) -> None:
        self._service = service
        self.calls: Counter[str] = Counter()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.calls[request.url.path.rpartition("/")[2]] += 1
        return self._service._transport.handle_request(request)


class StreamingClient(Client):
    """A client whose event stream delivers what ``deliver`` is given. Opening it counts as a call."""

    def __init__(self, transport: CountingTransport) -> None:
        super().__init__(transport=transport)
        self._counter = transport
        self._queue: queue.Queue[EventSchema | Unreachable | None] = queue.Queue()

    def watch(self, search_id: str, after: int = 0, stop: Callable[[], bool] = lambda: False) -> Iterator[EventSchema]:
        self._counter.calls["stream"] += 1
        while isinstance(event := self._queue.get(), EventSchema) and not stop():
            yield event
            self._queue.task_done()
        self._queue.task_done()
        if isinstance(event, Unreachable):
            raise event

    def end(self) -> None:
        """End one stream."""
        self._queue.put(None)

    def deliver(self, events: Sequence[EventSchema | Unreachable]) -> None:
        """Wait until the reader's stream has taken the events; an error breaks it off."""
        for event in events:
            self._queue.put(event)
        self._queue.join()


class RunningSearch:
    """A search that a worker runs, the reader of its page, and the time."""

    def __init__(self, store: Store, transport: CountingTransport, client: StreamingClient) -> None:
        self.store, self.transport, self.client = store, transport, client
        fakes.add_device(store)
        self.id = fakes.add_search(store)
        lease = store.jobs.claim("tests", 1e6)
        assert lease is not None
        self.lease: Lease = lease
        self.clock = fakes.Clock(0.0)
        self.reader = SearchPageReader(client, self.id, self.clock)
        self._delivered = 0

    def append(self, *events: Event) -> None:
        """Let the worker report events, without the stream."""
        assert fakes.append(self.store, self.lease, events, 1e6) == "continue"
        self._delivered = self.store.queries.search(self.id).last_event

    def report(self, *events: Event) -> None:
        """Let the worker report events, and the stream deliver them."""
        before = self._delivered
        self.append(*events)
        page, _ = self.store.queries.events(self.store.queries.search_job(self.id), before, 500, None)
        self.client.deliver(page.items)

    def read_after(self, seconds: float) -> SearchSnapshot:
        """The snapshot when so much time has passed."""
        self.clock.pass_(seconds)
        return self.reader.read()

    def measured_calls(self) -> Counter[str]:
        """The calls since the last time this was called."""
        calls = self.transport.calls.copy()
        self.transport.calls.clear()
        return calls


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSearch]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), fakes.Clock()) as store:
        service = TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1:8765")
        transport = CountingTransport(service)
        with StreamingClient(transport) as client:
            running = RunningSearch(store, transport, client)
            running.append(
                StageStarted("estimate", 0, 3),
                StageFinished("estimate", 0.5, {"reference": fakes.REFERENCE}),
                StageStarted("explore", 1, 3),
            )
            yield running
            running.reader.close()
            client.end()


def candidates(first: int, count: int) -> Evaluated:
    """Candidates of search and baseline by turns, the later the more accurate."""
    return Evaluated(
        tuple(
            fakes.candidate((i // 256 % 64, i // 16 % 16, i % 16), 50.0 + i / 200, ("search", "baseline")[i % 2])
            for i in range(first, first + count)
        )
    )


def keys(snapshot: SearchSnapshot) -> set[tuple[str, str, bool]]:
    return {(c.origin, c.arch, c.on_front) for c in snapshot.candidates}


def test_page_of_running_search_makes_at_most_two_calls_a_second(search: RunningSearch) -> None:
    for first in range(0, CANDIDATES, 1000):
        search.append(candidates(first, 1000))
    assert search.reader.read().candidate_count == CANDIDATES
    search.measured_calls()
    ticks, evaluated = 40, CANDIDATES
    for tick in range(ticks):
        search.report(
            candidates(evaluated, 8), HypervolumeAt(evaluated, 0.5, 0.4), Progress("explore", tick, ticks, "candidates")
        )
        evaluated += 8
        snapshot = search.read_after(ACTIVE_S)
        assert snapshot.search.stages[1].done == tick
    calls = search.measured_calls()
    assert calls.total() / (ticks * ACTIVE_S) + HEADER_CALLS / HEADER_REFRESH_S <= 2.0
    assert calls["front"] >= 5  # it does follow
    assert calls["stream"] <= 1  # the first reading opened it


@pytest.mark.long
def test_snapshot_after_following_equals_a_fresh_one(search: RunningSearch) -> None:
    search.append(candidates(0, LIMIT - 100))
    search.reader.read()
    for first in range(LIMIT - 100, LIMIT + 700, 200):
        search.report(candidates(first, 200))
        search.read_after(ACTIVE_S)
    assert len(search.reader.read().candidates) <= LIMIT
    followed = search.read_after(60.0)
    fresh = SearchPageReader(search.client, search.id, search.clock)
    expected = fresh.read()
    assert (followed.candidate_count, keys(followed)) == (expected.candidate_count, keys(expected))
    assert followed.front == expected.front
    assert followed.search == expected.search
    fresh.close()
    search.client.end()


def test_progress_is_shown_without_a_call(search: RunningSearch) -> None:
    search.reader.read()
    search.measured_calls()
    search.report(Progress("explore", 3, 9, "candidates", {"hypervolume": 0.5}, "round 2"))
    stage = search.read_after(0.0).search.stages[1]
    assert (stage.done, stage.total, stage.values, stage.message) == (3, 9, {"hypervolume": 0.5}, "round 2")
    assert search.measured_calls() == {}


def test_measurements_reach_candidates_that_were_read_before(search: RunningSearch) -> None:
    search.append(candidates(0, 40))
    before = search.reader.read()
    assert {c.status for c in before.candidates} == {"unverified"}
    first = before.front.members[0]
    arch = fakes.arch(*first.genes)
    search.report(
        Evaluated((Candidate(arch, "search", {"test_accuracy": 60.0}),)),
        Measured(arch, "search", fakes.measurement(5.0), 11.0),
    )
    after = search.read_after(60.0)
    assert [c.arch for c in after.candidates if c.status == "verified"] == [first.arch]


def test_change_of_status_is_shown_at_once(search: RunningSearch) -> None:
    search.reader.read()
    last = search.store.queries.search(search.id).last_event
    assert search.store.jobs.finish(search.lease, "succeeded")
    page, _ = search.store.queries.events(search.store.queries.search_job(search.id), last, 500, None)
    search.client.deliver(page.items)
    snapshot = search.read_after(0.0)
    assert snapshot.search.status == "succeeded"
    assert [change.event.after for change in snapshot.status_changes] == ["queued", "running", "succeeded"]


def test_search_without_news_keeps_its_snapshot(search: RunningSearch) -> None:
    snapshot = search.reader.read()
    assert search.reader.read() is snapshot


def test_broken_stream_is_an_error_once_and_opened_again(search: RunningSearch) -> None:
    search.reader.read()
    search.client.deliver([Unreachable("no server answers")])
    for thread in [t for t in threading.enumerate() if t.name == "event stream"]:
        thread.join()
    with pytest.raises(Unreachable, match="no server answers"):
        search.reader.read()
    search.append(candidates(0, 8))
    search.measured_calls()
    assert search.read_after(60.0).candidate_count == 8
    search.report(Progress("explore", 5, 9, "candidates"))
    assert search.read_after(0.0).search.stages[1].done == 5
    assert search.measured_calls()["stream"] == 1
