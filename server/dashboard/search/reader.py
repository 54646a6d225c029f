"""Read a search for its page: everything once, then only what its events have changed.

The page of a search that is not over follows the event stream. Progress is applied from the events themselves; other
events mark the resources that they change, each of which is read again at most once in its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from nas.client import Client
from nas.core.cells import CellGraph
from nas.core.errors import NotFound
from nas.core.events import Progress, decode
from nas.schemas.candidates import FrontSchema
from nas.schemas.jobs import EventSchema, StageSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.search.candidate_list import CandidateList
from server.dashboard.search.event_log import EventHistory
from server.dashboard.search.event_stream import EventStream
from server.dashboard.search.staleness import SearchResource, Staleness
from server.dashboard.search.view_model import RelatedSearch, SearchSnapshot

_CHILDREN = 50


class SearchPageReader:
    """Takes snapshots of one search. One thread at a time may ``read``; ``clock`` counts seconds."""

    def __init__(self, client: Client, search_id: str, clock: Callable[[], float]) -> None:
        self._client, self._id, self._clock = client, search_id, clock
        self._stream = EventStream(lambda after, stop: client.watch(search_id, after, stop))
        self._staleness = Staleness()
        self._log = EventHistory()
        self._candidates = CandidateList(client, search_id)
        self._device: str | None = None
        self._snapshot: SearchSnapshot | None = None

    def select_device(self, device: str | None) -> None:
        """Show the front over the latency of one device of the fleet, or the first front (None)."""
        self._device = device
        self._staleness.invalidate((SearchResource.FRONT, SearchResource.CANDIDATES), at_once=True)

    def invalidate(self) -> None:
        """Read the search itself at the next ``read``, such as after an action of the page."""
        self._staleness.invalidate((SearchResource.SEARCH,), at_once=True)

    def invalidate_marks(self) -> None:
        """Read stars and notes at the next ``read``, after the page has changed one."""
        self._staleness.invalidate((SearchResource.MARKS,), at_once=True)

    def close(self) -> None:
        """Stop following the search."""
        self._stream.stop()

    def read(self) -> SearchSnapshot:
        """The search as it is now; the same object as before if nothing has changed. Raises the client's errors."""
        if self._snapshot is None:
            self._snapshot = self._read_first()
        else:
            self._apply(self._stream.take())
            self._staleness.invalidate((SearchResource.CHILDREN, SearchResource.MARKS))
            if formatting.is_moving(self._snapshot.search) or not self._stream.is_open:
                self._staleness.invalidate(
                    (SearchResource.SEARCH,)
                )  # the time left and the queue position have no events
            self._read_due()
        if not self._stream.is_open and not formatting.is_over(self._snapshot.search):
            self._stream.open(self._log.last)
        return self._snapshot

    def _read_first(self) -> SearchSnapshot:
        client, now = self._client, self._clock()
        search = client.search(self._id)
        self._log.read(client, self._id, search.last_event)
        front = client.front(self._id, self._device)
        if search.evaluations:
            self._candidates.reload(front.device)
        snapshot = SearchSnapshot(
            search=search,
            front=front,
            candidates=self._candidates.of_front(front),
            candidate_count=self._candidates.total,
            artifacts=tuple(client.artifacts(self._id)),
            status_changes=self._log.status_changes,
            traces=self._log.traces,
            refits=self._log.refits,
            cells=self._read_cells(search),
            parent=self._read_parent(search.parent or search.spec.supernet),
            children=self._read_children(),
            marks=tuple(client.marks(self._id)),
            principal=client.me(),
        )
        for resource in SearchResource:
            self._staleness.mark_read(resource, now)
        return snapshot

    def _apply(self, events: Iterable[EventSchema]) -> None:
        """Show what the events say themselves, and mark what else they change."""
        events = [event for event in events if event.seq > self._log.last]
        if not events:
            return
        assert self._snapshot is not None
        self._log.append(events)
        stages = {stage.name: stage for stage in self._snapshot.search.stages}
        for event in events:
            kind = event.body["kind"]
            self._staleness.apply(kind)
            if kind == Progress.kind:
                progress = decode(event.body)
                assert isinstance(progress, Progress)
                if progress.stage in stages:
                    stages[progress.stage] = _with_progress(stages[progress.stage], progress)
        self._replace_search(self._snapshot.search.model_copy(update={"stages": list(stages.values())}))

    def _replace_search(self, search: SearchSchema) -> None:
        assert self._snapshot is not None
        self._snapshot = replace(
            self._snapshot,
            search=search,
            status_changes=self._log.status_changes,
            traces=self._log.traces,
            refits=self._log.refits,
            cells=self._snapshot.cells or self._read_cells(search),
        )

    def _read_due(self) -> None:
        for resource in SearchResource:
            now = self._clock()
            if self._staleness.is_due(resource, now):
                self._read_resource(resource)
                self._staleness.mark_read(resource, now)

    def _read_resource(self, resource: SearchResource) -> None:
        client, snapshot = self._client, self._snapshot
        assert snapshot is not None
        front, device = snapshot.front, snapshot.front.device
        match resource:
            case SearchResource.SEARCH:
                self._read_search()
            case SearchResource.FRONT:
                front = client.front(self._id, self._device)
                self._replace_candidates(front)
            case SearchResource.CANDIDATES if snapshot.search.evaluations:
                self._candidates.reload(device)
                self._replace_candidates(front)
            case SearchResource.NEW_CANDIDATES if snapshot.search.evaluations:
                self._candidates.read_new(device)
                self._replace_candidates(front)
            case SearchResource.ARTIFACTS:
                self._snapshot = replace(snapshot, artifacts=tuple(client.artifacts(self._id)))
            case SearchResource.CHILDREN:
                self._snapshot = replace(snapshot, children=self._read_children())
            case SearchResource.MARKS:
                self._snapshot = replace(snapshot, marks=tuple(client.marks(self._id)))

    def _read_search(self) -> None:
        """Read the search, and without a stream whatever has happened since."""
        search = self._client.search(self._id)
        if not self._stream.is_open and search.last_event > self._log.last:
            self._log.read(self._client, self._id, search.last_event)
            self._staleness.invalidate(set(SearchResource) - {SearchResource.SEARCH}, at_once=True)
        self._replace_search(search)

    def _replace_candidates(self, front: FrontSchema) -> None:
        assert self._snapshot is not None
        candidates, count = self._candidates.of_front(front), self._candidates.total
        self._snapshot = replace(self._snapshot, front=front, candidates=candidates, candidate_count=count)

    def _read_cells(self, search: SearchSchema) -> tuple[CellGraph, ...]:
        if not self._log.traces:
            return ()
        return next((tuple(s.cells) for s in self._client.spaces() if s.name == search.spec.space.name), ())

    def _read_parent(self, parent_id: str | None) -> RelatedSearch | None:
        if parent_id is None:
            return None
        try:
            return RelatedSearch.of(self._client.search(parent_id))
        except NotFound:  # deleted, or another owner's
            return None

    def _read_children(self) -> tuple[RelatedSearch, ...]:
        page = self._client.searches(parent=self._id, limit=_CHILDREN)
        return tuple(RelatedSearch.of(search) for search in page.items)


def _with_progress(stage: StageSchema, progress: Progress) -> StageSchema:
    return stage.model_copy(
        update={
            "status": "running",
            "done": progress.done,
            "total": progress.total,
            "unit": progress.unit,
            "values": {**stage.values, **progress.values},
            "message": progress.message,
        }
    )
