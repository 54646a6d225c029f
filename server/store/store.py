"""Everything that is kept, in one value: the jobs, what can be read about them, and the blobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.blobs import FolderBlobs, RemoteBlobs, open_blobs
from server.store.audit import Audit
from server.store.database import connect
from server.store.garbage import CollectionResult, collect
from server.store.jobs import SqlJobStore
from server.store.measurements import Measurements
from server.store.migrate import migrate_engine
from server.store.queries import Queries
from server.store.quotas import Quotas
from server.store.tokens import Tokens


@dataclass(frozen=True)
class Store:
    """The jobs and what can be read about them, what agents measure for them, owners' limits, tokens, the audit trail,
    the blobs, and how to collect those that nobody points at (``server.store.garbage.collect``)."""

    jobs: SqlJobStore
    queries: Queries
    measurements: Measurements
    quotas: Quotas
    audit: Audit
    tokens: Tokens
    blobs: FolderBlobs | RemoteBlobs
    collect: Callable[..., CollectionResult]


@contextmanager
def open_store(database: str, blobs: str, clock: Callable[[], float] = time.time) -> Iterator[Store]:
    """Connects, brings the schema up to date, and closes the connections at the end.

    Raises InvalidInput for URLs that cannot be used, StorageError for a database that cannot.
    """
    engine = connect(database)
    try:
        migrate_engine(engine)
        kept = open_blobs(blobs)
        yield Store(
            jobs=SqlJobStore(engine, clock),
            queries=Queries(engine, clock),
            measurements=Measurements(engine, clock),
            quotas=Quotas(engine, clock),
            audit=Audit(engine),
            tokens=Tokens(engine, clock),
            blobs=kept,
            collect=lambda **options: collect(engine, kept, clock(), **options),
        )
    finally:
        engine.dispose()
