"""Webhooks: what they are sent, when again, and what keeps them quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nas.core.access import LOCAL
from server.settings import Settings
from server.store.notices import FIRST_DELAY_S, MOST_ATTEMPTS, OLDEST_S
from server.store.store import Store, open_store
from server.webhooks import SIGNATURE, WebhookSender, signature
from tests.support import fakes

URL = "http://127.0.0.1:8765"


class Receiver(httpx.MockTransport):
    """Takes requests, and answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.requests: list[httpx.Request] = []
        self.status = 200

    def _take(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.status == 0:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(self.status)


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), clock) as opened:
        yield opened


def sender(store: Store, receiver: Receiver, **settings: str) -> WebhookSender:
    options = Settings.model_validate({"webhooks": "https://hooks.example/a https://hooks.example/b", **settings})
    return WebhookSender(store, options, URL, receiver)


def ended(store: Store, status: str, error: str | None = None) -> str:
    fakes.add_device(store)
    search = fakes.add_search(store)
    lease = store.jobs.claim("tests", 1e6)
    assert lease is not None
    assert store.jobs.finish(lease, status, error)
    return search


def test_every_webhook_is_told_once_with_text_facts_and_signature(store: Store) -> None:
    receiver = Receiver()
    hooks = sender(store, receiver, webhook_secret="shared", public_url="https://nas.example/")
    search = ended(store, "failed", "the data are deleted.")
    assert hooks.send_due() == 1
    assert hooks.send_due() == 0
    assert [request.url.path for request in receiver.requests] == ["/a", "/b"]
    request = receiver.requests[0]
    body = json.loads(request.content)
    assert request.headers[SIGNATURE] == f"sha256={signature('shared', request.content)}"
    assert body["text"].endswith(f"has failed: the data are deleted. https://nas.example/searches/{search}")
    assert (body["search"], body["status"], body["error"]) == (search, "failed", "the data are deleted.")
    assert body["delivery"] == json.loads(receiver.requests[1].content)["delivery"]


@pytest.mark.parametrize("status", [0, 500, 302])
def test_a_receiver_that_refuses_is_tried_again_later_and_not_for_ever(
    store: Store, clock: fakes.Clock, status: int
) -> None:
    receiver = Receiver()
    receiver.status = status
    hooks = sender(store, receiver)
    ended(store, "succeeded")
    assert hooks.send_due() == 0
    assert hooks.send_due() == 0
    assert len(receiver.requests) == 2  # one for each address: it is not due yet
    for attempt in range(MOST_ATTEMPTS + 3):
        clock.pass_(FIRST_DELAY_S * 2**attempt)
        hooks.send_due()
    assert len(receiver.requests) == 2 * MOST_ATTEMPTS
    bodies = {json.loads(request.content)["delivery"] for request in receiver.requests}
    assert len(bodies) == 1


def test_a_receiver_that_comes_back_is_told(store: Store, clock: fakes.Clock) -> None:
    receiver = Receiver()
    receiver.status = 503
    hooks = sender(store, receiver)
    ended(store, "succeeded")
    hooks.send_due()
    receiver.status = 204
    clock.pass_(FIRST_DELAY_S)
    assert hooks.send_due() == 1


def test_nobody_is_told_of_cancelled_deleted_or_long_ended_searches(store: Store, clock: fakes.Clock) -> None:
    receiver = Receiver()
    hooks = sender(store, receiver)
    fakes.add_device(store)
    waiting = fakes.add_search(store)
    store.jobs.cancel(waiting, LOCAL)
    assert hooks.send_due() == 0
    deleted = ended(store, "succeeded")
    store.jobs.delete(deleted, LOCAL)
    ended(store, "succeeded")
    clock.pass_(OLDEST_S + 1)
    assert hooks.send_due() == 0
    assert receiver.requests == []


def test_settings_of_webhooks_reach_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"webhooks": "https://a.example/x https://b.example/y", "webhook_secret": "s3"})
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    read = Settings()
    assert read.webhooks == settings.webhooks
    assert read.webhook_secret == settings.webhook_secret
    assert "s3" not in repr(settings)
