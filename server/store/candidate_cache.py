"""The candidates of searches in memory, as columns, updated with the rows that changed since.

A snapshot of the database gives the job's last event; every row that a later event than the cached one changed is read.
Tables are values, so a reader with an older snapshot is never disturbed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from sqlalchemy.orm import Session

from nas.core.candidates import CandidateTable
from server.store.models import Job
from server.store.projections import load_points

CACHE_BYTES = 256 * 1024 * 1024
_LOCKS = 64


class CandidateCache:
    """Tables of candidates by search: the most recently used, up to ``budget`` bytes in all."""

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self.nbytes = 0
        self._budget = budget
        self._tables: OrderedDict[str, tuple[int, CandidateTable]] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = [threading.Lock() for _ in range(_LOCKS)]

    def table(self, session: Session, job: Job) -> CandidateTable:
        """The candidates of a search, as of the session's snapshot or later. Concurrent requests share one read."""
        with self._loading[hash(job.id) % _LOCKS]:
            seq, table = self._lookup(job.id)
            if seq < job.last_seq:
                table = table.updated(*load_points(session, job.id, seq))
                self.store(job.id, job.last_seq, table)
            return table

    def uncommitted_table(self, session: Session, job: Job) -> CandidateTable:
        """The candidates of a search as of the session's own transaction. Not kept, since it may still fail: the caller
        stores the table once it is committed."""
        seq, table = self._lookup(job.id)
        return table.updated(*load_points(session, job.id, seq))

    def _lookup(self, job_id: str) -> tuple[int, CandidateTable]:
        with self._lock:
            if job_id in self._tables:
                self._tables.move_to_end(job_id)
            return self._tables.get(job_id, (-1, CandidateTable()))

    def store(self, job_id: str, seq: int, table: CandidateTable) -> None:
        """Keep the candidates of a search as of event ``seq``."""
        with self._lock:
            if job_id in self._tables:
                self.nbytes -= self._tables[job_id][1].nbytes
            self._tables[job_id] = (seq, table)
            self._tables.move_to_end(job_id)
            self.nbytes += table.nbytes
            while self.nbytes > self._budget:
                self.nbytes -= self._tables.popitem(last=False)[1][1].nbytes
