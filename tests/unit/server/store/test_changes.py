"""Changes of jobs reach their subscribers, from any process, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.core.events import Warned
from server.store.store import Store, open_store
from tests.support import fakes

PATIENCE_S = 20.0


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    with open_store(url, str(tmp_path / "blobs")) as opened:
        yield opened


def settle(notified: threading.Semaphore) -> None:
    """Take the notifications without a reason that follow a subscription."""
    while notified.acquire(timeout=0.5):
        pass


def test_changes_of_another_process_reach_the_subscribers_of_the_job(store: Store, url: str, tmp_path: Path) -> None:
    fakes.add_device(store)
    followed, other = fakes.add_search(store), fakes.add_search(store)
    with open_store(url, str(tmp_path / "blobs")) as elsewhere:
        lease = elsewhere.jobs.claim("worker", 100.0)
        assert lease is not None
        assert lease.job_id == followed
        notified, of_other = threading.Semaphore(0), threading.Semaphore(0)
        with (
            store.changes.subscribed(followed, notified.release),
            store.changes.subscribed(other, of_other.release),
        ):
            assert of_other.acquire(timeout=PATIENCE_S)  # the first time without a reason
            settle(notified)
            settle(of_other)
            fakes.append(elsewhere, lease, [Warned("train", "hello")])
            assert notified.acquire(timeout=PATIENCE_S)
            assert not of_other.acquire(timeout=0.5)
            settle(notified)
            fakes.append(elsewhere, lease, [])  # renews the lease only
            assert not notified.acquire(timeout=0.5)
            elsewhere.jobs.finish(lease, "succeeded")
            assert notified.acquire(timeout=PATIENCE_S)


def test_the_thread_ends_with_the_last_subscriber_and_starts_again(store: Store) -> None:
    fakes.add_device(store)
    search = fakes.add_search(store)
    for _ in range(3):
        notified = threading.Semaphore(0)
        with store.changes.subscribed(search, notified.release):
            assert notified.acquire(timeout=PATIENCE_S)
            threads = [t for t in threading.enumerate() if t.name == "changes of jobs"]
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_followers_are_told_when_the_database_was_away(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nas.core.errors import StorageError

    fakes.add_device(store)
    search = fakes.add_search(store)
    follow_name = "_listen" if store.queries.database == "postgresql" else "_poll"
    follow = getattr(store.changes, follow_name)
    failures = iter([True, True])

    def fail_first() -> None:
        if next(failures, False):
            raise StorageError("away")
        follow()

    monkeypatch.setattr(store.changes, follow_name, fail_first)
    monkeypatch.setattr("server.store.changes.RETRY_S", 0.01)
    notified = threading.Semaphore(0)
    with store.changes.subscribed(search, notified.release):
        for _ in range(3):  # after each failure, and at the first look
            assert notified.acquire(timeout=PATIENCE_S)
    assert caplog.text.count("cannot be followed") == 1
