"""The best candidates of a search, kept up to date with few and small calls of the service."""

from __future__ import annotations

from collections.abc import Iterable

from nas.client import Client
from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema, FrontSchema

LIMIT = 2000  # drawn and listed; the best by the estimate of their quality
_PAGE_SIZE = 1000
_NEWEST_PAGE_SIZE = 200

CandidateKey = tuple[str, str]  # origin, architecture


class CandidateList:
    """The ``LIMIT`` best candidates by the estimate of their quality, as one device of the search's fleet has them."""

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._search_id = client, search_id
        self._by_key: dict[CandidateKey, CandidateSchema] = {}
        self.total = 0

    def reload(self, device: str | None) -> None:
        """Read all of them again: their metrics may have changed."""
        self._by_key.clear()
        cursor = None
        while True:
            page = self._client.candidates(self._search_id, limit=_PAGE_SIZE, cursor=cursor, device=device)
            self._add(page.items)
            self.total = page.total
            cursor = page.next
            if cursor is None or len(self._by_key) >= LIMIT:
                return

    def read_new(self, device: str | None) -> None:
        """Read those that were evaluated since the last call, newest first."""
        unread, cursor = None, None
        while unread is None or unread > 0:
            page = self._client.candidates(
                self._search_id, order="-position", limit=_NEWEST_PAGE_SIZE, cursor=cursor, device=device
            )
            if unread is None:
                unread, self.total = page.total - self.total, page.total
            self._add(page.items)
            unread -= len(page.items)
            cursor = page.next
            if cursor is None:
                break
        if len(self._by_key) > LIMIT:
            ranked = sorted(self._by_key.values(), key=_merit, reverse=True)
            self._by_key = {_key(c): c for c in ranked[:LIMIT]}

    def _add(self, candidates: Iterable[CandidateSchema]) -> None:
        self._by_key |= {_key(c): c for c in candidates}

    def of_front(self, front: FrontSchema) -> tuple[CandidateSchema, ...]:
        """The candidates, best first, and whether each is a member of this front."""
        members = {_key(c) for c in (*front.members, *front.baseline)}
        for key, candidate in self._by_key.items():
            if candidate.on_front != (key in members):
                self._by_key[key] = candidate.model_copy(update={"on_front": key in members})
        return tuple(sorted(self._by_key.values(), key=_merit, reverse=True))


def _key(candidate: CandidateSchema) -> CandidateKey:
    return candidate.origin, candidate.arch


def _merit(candidate: CandidateSchema) -> float:
    """The estimate of the only task that a search has; less is better where the task's quality is an error."""
    for task in installed_tasks().values():
        if (metric := candidate.metrics.get(task.estimated)) is not None:
            return task.merit(metric.value)
    return float("-inf")
