"""Stored fronts in memory, so that a front that is looked at again is not read again.

The last event of a search says how old a cached front is. After newer events, the keys of the members are read, and the
rows of those members that have changed since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from nas.core.fronts import Front
from nas.core.spec import SearchSpec
from nas.stages.fronts import front_context
from server.store.fronts import front_members, member_keys, read_front
from server.store.models import Job
from server.store.projections import Key, PlacedCandidate

MAX_FRONTS = 64


@dataclass(frozen=True)
class CachedFront:
    """A front as of event ``seq``, with its members and those of the baseline."""

    seq: int
    members: Mapping[Key, PlacedCandidate]
    front: Front


class FrontCache:
    """The ``size`` fronts that were read last."""

    def __init__(self, size: int = MAX_FRONTS) -> None:
        self._size = size
        self._fronts: OrderedDict[tuple[str, str], CachedFront] = OrderedDict()
        self._lock = threading.Lock()

    def front(self, session: Session, job: Job, spec: SearchSpec, device: str) -> Front:
        """The front of a search on one device, or on ``ALL_DEVICES``, as of the session's snapshot."""
        with self._lock:
            cached = self._fronts.get((job.id, device))
        if cached is not None and cached.seq == job.last_seq:
            return cached.front
        members = _members(session, job, device, cached)
        front = read_front(session, job, spec, front_context(job.state.finished), device, members.values())
        self._keep((job.id, device), CachedFront(job.last_seq, members, front))
        return front

    def _keep(self, key: tuple[str, str], read: CachedFront) -> None:
        with self._lock:
            before = self._fronts.get(key)
            if before is None or before.seq < read.seq:  # a session may have seen an older snapshot than another
                self._fronts[key] = read
            self._fronts.move_to_end(key)
            while len(self._fronts) > self._size:
                self._fronts.popitem(last=False)


def _members(session: Session, job: Job, device: str, cached: CachedFront | None) -> Mapping[Key, PlacedCandidate]:
    if cached is not None and cached.seq < job.last_seq:
        latest = {**cached.members, **front_members(session, job.id, device, after=cached.seq)}
        keys = member_keys(session, job.id, [device])
        if keys <= latest.keys():
            return {key: latest[key] for key in keys}
    return front_members(session, job.id, device)  # also where one became a member without a change of its own
