"""Which resources of a search have changed since they were read, and when each may be read again."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from nas.core.events import (
    Concluded,
    DataRead,
    Evaluated,
    Exported,
    HypervolumeAt,
    Measured,
    StageFinished,
    StageStarted,
    StatusChanged,
    Warned,
)


class SearchResource(StrEnum):
    """Something that one call of the service reads, in the order in which they are read."""

    SEARCH = "search"
    FRONT = "front"
    CANDIDATES = "candidates"
    NEW_CANDIDATES = "new candidates"
    ARTIFACTS = "artifacts"
    CHILDREN = "children"
    MARKS = "marks"


# Seconds between two readings. The counts and the remaining time of a running search are at most so old.
INTERVALS_S = {
    SearchResource.SEARCH: 4.0,
    SearchResource.FRONT: 4.0,
    SearchResource.NEW_CANDIDATES: 4.0,
    SearchResource.CANDIDATES: 12.0,
    SearchResource.ARTIFACTS: 4.0,
    SearchResource.CHILDREN: 30.0,
    SearchResource.MARKS: 30.0,
}
_RESULTS = (SearchResource.SEARCH, SearchResource.FRONT, SearchResource.CANDIDATES)
# By the kind of an event. Other kinds, such as progress, change nothing that is read.
_CHANGED = {
    StageStarted.kind: (SearchResource.SEARCH,),
    DataRead.kind: (SearchResource.SEARCH,),
    Concluded.kind: (SearchResource.SEARCH,),
    Evaluated.kind: (SearchResource.SEARCH, SearchResource.FRONT, SearchResource.NEW_CANDIDATES),
    Measured.kind: _RESULTS,
    HypervolumeAt.kind: (SearchResource.SEARCH,),
    Exported.kind: (SearchResource.ARTIFACTS,),
    Warned.kind: (SearchResource.SEARCH,),
    StageFinished.kind: _RESULTS,
    StatusChanged.kind: (*_RESULTS, SearchResource.ARTIFACTS),
}


class Staleness:
    """Everything is stale at first."""

    def __init__(self) -> None:
        self._stale = set(SearchResource)
        self._read_at_s = dict.fromkeys(SearchResource, float("-inf"))

    def invalidate(self, resources: Iterable[SearchResource], *, at_once: bool = False) -> None:
        """Mark resources as changed. ``at_once``: read them although their interval has not passed."""
        for resource in resources:
            self._stale.add(resource)
            if at_once:
                self._read_at_s[resource] = float("-inf")

    def apply(self, event_kind: str) -> None:
        """Mark what an event has changed. A change of status is shown at once."""
        self.invalidate(_CHANGED.get(event_kind, ()), at_once=event_kind == StatusChanged.kind)

    def is_due(self, resource: SearchResource, now_s: float) -> bool:
        """Whether to read a resource now."""
        return resource in self._stale and now_s >= self._read_at_s[resource] + INTERVALS_S[resource]

    def mark_read(self, resource: SearchResource, now_s: float) -> None:
        """Note that a resource was read. Reading all candidates reads the new ones, too."""
        self._stale.discard(resource)
        self._read_at_s[resource] = now_s
        if resource is SearchResource.CANDIDATES:
            self.mark_read(SearchResource.NEW_CANDIDATES, now_s)
