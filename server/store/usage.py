"""What owners have used: sums over all jobs that ever were, kept in the transactions that change them.

A transaction collects what it adds and writes it at its end, ordered by owner and shard, so that two transactions never
wait for each other in a circle.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.store.database import at_end, upsert
from server.store.models import Base, Job, UsageRow

SHARDS = 8
_usage = Base.metadata.tables["usage"]
_PENDING = "usage"  # in ``Session.info``


@dataclass(frozen=True)
class Usage:
    """Events written, networks evaluated by searches, seconds under leases, and the same times the GPUs in use."""

    events: int = 0
    evaluations: int = 0
    busy_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.events + other.events,
            self.evaluations + other.evaluations,
            self.busy_seconds + other.busy_seconds,
            self.gpu_seconds + other.gpu_seconds,
        )


def add_usage(session: Session, job: Job, *, events: int = 0, evaluations: int = 0, busy_seconds: float = 0.0) -> None:
    """Count for the owner of ``job`` what this transaction adds."""
    pending: dict[tuple[str, int], Usage] = session.info.setdefault(_PENDING, {})
    key = (job.owner, zlib.crc32(job.id.encode()) % SHARDS)
    added = Usage(events, evaluations, busy_seconds, busy_seconds * job.resources.gpus)
    pending[key] = pending.get(key, Usage()) + added
    at_end(session, _write)


def _write(session: Session) -> None:
    pending: dict[tuple[str, int], Usage] = session.info.pop(_PENDING)
    for (owner, shard), added in sorted(pending.items()):
        if added != Usage():
            upsert(session, _usage, {"owner": owner, "shard": shard, **vars(added)}, adding=vars(added))


def usage_of(session: Session, owner: str | None = None) -> Usage:
    """The usage of one owner, or of all, with what this transaction adds."""
    columns = (UsageRow.events, UsageRow.evaluations, UsageRow.busy_seconds, UsageRow.gpu_seconds)
    query = select(*(func.coalesce(func.sum(column), 0) for column in columns))
    if owner is not None:
        query = query.where(UsageRow.owner == owner)
    sums = session.execute(query).one()
    written = Usage(int(sums[0]), int(sums[1]), float(sums[2]), float(sums[3]))
    pending: dict[tuple[str, int], Usage] = session.info.get(_PENDING, {})
    return sum((added for (name, _), added in pending.items() if owner in (None, name)), start=written)
