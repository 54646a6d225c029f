"""Tell webhooks of searches that have ended: a POST with JSON, signed, at least once, repeated while it fails.

The body has a ``text`` for people, which is all that an incoming webhook of Slack, Mattermost or a mail gateway reads,
and the facts for programs.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Callable, Sequence

import httpx
from pydantic import BaseModel

from nas.core.errors import HwnasError, NotFound
from nas.core.lifecycle import JobStatus
from nas.schemas.searches import SearchSchema
from server.settings import Settings
from server.store.notices import Notice
from server.store.store import Store

log = logging.getLogger(__name__)
SIGNATURE = "X-Hwnas-Signature"
_TIMEOUT_S = 10.0
_POLL_S = 2.0


class WebhookBody(BaseModel):
    """What a webhook is sent. ``delivery`` is the same in every attempt, so that a receiver can drop repetitions."""

    text: str
    delivery: str
    search: str
    name: str
    spoken_name: str
    status: JobStatus
    owner: str
    error: str | None
    front_size: int
    verified: int
    url: str

    @staticmethod
    def of(search: SearchSchema, notice: Notice, url: str) -> WebhookBody:
        """The body for a search; ``url``: the address of the service."""
        page = f"{url.rstrip('/')}/searches/{search.id}"
        return WebhookBody(
            text=f"{_sentence(search)} {page}",
            delivery=f"{notice.search_id}-{notice.seq}",
            search=search.id,
            name=search.name,
            spoken_name=search.spoken_name,
            status=search.status,
            owner=search.owner,
            error=search.error,
            front_size=search.front_size,
            verified=search.verified,
            url=page,
        )


def _sentence(search: SearchSchema) -> str:
    title = f"Search \u201c{search.name}\u201d ({search.spoken_name})"
    match search.status:
        case "succeeded" if search.conclusions:
            return f"{title} has finished: {search.conclusions[0].message.rstrip('.')}."
        case "succeeded":
            return f"{title} has finished: {search.front_size} networks on its front, {search.verified} verified."
        case status:
            reason = (search.error or "no reason was recorded").rstrip(".")
            return f"{title} {'has failed' if status == 'failed' else 'is quarantined'}: {reason}."


class WebhookSender:
    """Sends notices to the webhooks of the settings. ``transport`` replaces the network in tests."""

    def __init__(
        self, store: Store, settings: Settings, url: str, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._store = store
        self._addresses: Sequence[str] = [str(address) for address in settings.webhooks]
        self._secret = settings.webhook_secret
        self._url = str(settings.public_url or url)
        self._http = httpx.Client(timeout=_TIMEOUT_S, transport=transport, follow_redirects=False)

    def send_due(self) -> int:
        """Send what is due; the number of notices that every webhook has taken. Raises the errors of the store."""
        settled = 0
        while (notice := self._store.notices.take()) is not None:
            if self._deliver(notice):
                self._store.notices.settle(notice)
                settled += 1
        return settled

    def run(self, wait: Callable[[float], bool]) -> None:
        """Send until ``wait``, which sleeps, returns True. An error of the database is logged, and tried again."""
        with self._http:
            while not wait(_POLL_S):
                try:
                    self.send_due()
                except HwnasError as error:
                    log.error("webhooks: %s", error)

    def _deliver(self, notice: Notice) -> bool:
        """Whether all webhooks have taken a notice; one of a search that was deleted or is running again needs none."""
        try:
            search = self._store.queries.search(notice.search_id)
        except NotFound:
            return True
        body = WebhookBody.of(search, notice, self._url).model_dump_json().encode()
        answers = [self._post(address, body) for address in self._addresses]  # all of them, whatever the first says
        return all(answers)

    def _post(self, address: str, body: bytes) -> bool:
        headers = {"Content-Type": "application/json", "User-Agent": "hwnas"}
        if self._secret is not None:
            headers[SIGNATURE] = f"sha256={signature(self._secret.get_secret_value(), body)}"
        host = httpx.URL(address).host  # the path is the secret of many webhooks
        try:
            answer = self._http.post(address, content=body, headers=headers)
        except httpx.HTTPError as error:
            log.warning("the webhook at %s does not answer: %s", host, type(error).__name__)
            return False
        if not answer.is_success:
            log.warning("the webhook at %s answered %d", host, answer.status_code)
        return answer.is_success


def signature(secret: str, body: bytes) -> str:
    """The HMAC-SHA256 of a body, in hexadecimal digits, by which a receiver knows who sent it."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def start(store: Store, settings: Settings, url: str, stopping: threading.Event) -> None:
    """Send in a thread until ``stopping``; nothing without webhooks."""
    if settings.webhooks:
        sender = WebhookSender(store, settings, url)
        threading.Thread(target=sender.run, args=(stopping.wait,), name="webhooks", daemon=True).start()
