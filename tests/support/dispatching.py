"""Jobs on a dispatcher, and what the store holds of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nas.core.jobs import AppendOutcome, Lease, LeaseToken
from nas.schemas.searches import SearchSchema
from server.store.jobs import SqlJobStore
from server.store.store import Store
from tests.support import fakes

SECONDS = 60.0


class ObservedJobs:
    """The jobs of a store, with a hook on appends and semaphores to wait for the end of a job."""

    def __init__(self, jobs: SqlJobStore) -> None:
        self._jobs = jobs
        self.on_append: Callable[[Lease, Sequence[Mapping[str, Any]]], None] = lambda *_: None
        self.ends = threading.Semaphore(0)
        self.lost = threading.Semaphore(0)
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def append(self, lease: Lease, batch: int, events: Sequence[Mapping[str, Any]], seconds: float) -> AppendOutcome:
        answer = self._jobs.append(lease, batch, events, seconds)
        self.appends += 1
        if answer == "lost":
            self.lost.release()
        self.on_append(lease, events)
        return answer

    def renew(self, leases: Collection[LeaseToken], seconds: float) -> Sequence[LeaseToken]:
        lost = self._jobs.renew(leases, seconds)
        for _ in lost:
            self.lost.release()
        return lost

    def finish(self, lease: Lease, status: Any, error: str | None = None) -> bool:
        done = self._jobs.finish(lease, status, error)
        self.ends.release()
        return done

    def release(self, lease: Lease, crash: str | None = None, delay_s: float = 0.0) -> bool:
        done = self._jobs.release(lease, crash, delay_s)
        if crash is None:
            self.ends.release()
        return done


def submit(store: Store, act: str, **changes: Any) -> str:
    spec = fakes.search_spec(strategy={"name": "plain", "params": {"act": act}}, **changes)
    return fakes.add_search(store, spec)


def ended(store: Store, watched: ObservedJobs, search: str) -> SearchSchema:
    assert watched.ends.acquire(timeout=SECONDS)
    return store.queries.search(search)


def kinds(store: Store, search: str) -> list[str]:
    page, _ = store.queries.events(search, 0, 1000)
    return [e.body["kind"] for e in page.items if e.body["kind"] not in ("progress", "status")]
