"""The store: jobs, queries, agents' measurements, quotas, audit trail, tokens and blobs in one value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.blobs import FolderBlobs, RemoteBlobs, open_blobs
from server.store.audit import Audit
from server.store.database import connect
from server.store.devices import Devices
from server.store.garbage import CollectionResult, collect
from server.store.jobs import SqlJobStore
from server.store.measurements import Measurements
from server.store.migrate import migrate_engine
from server.store.queries import Queries
from server.store.quotas import Quotas
from server.store.sessions import TokenSessions
from server.store.tokens import Tokens


@dataclass(frozen=True)
class Store:
    """The parts of the store. ``collect`` removes unreferenced blobs, see ``server.store.garbage.collect``."""

    jobs: SqlJobStore
    queries: Queries
    devices: Devices
    measurements: Measurements
    quotas: Quotas
    audit: Audit
    tokens: Tokens
    sessions: TokenSessions
    blobs: FolderBlobs | RemoteBlobs
    collect: Callable[..., CollectionResult]


@contextmanager
def open_store(database: str, blobs: str, clock: Callable[[], float] = time.time) -> Iterator[Store]:
    """Connect, migrate the schema, and close the connections at the end.

    Raises InvalidInput for invalid URLs, StorageError for a database that cannot be used.
    """
    engine = connect(database)
    try:
        migrate_engine(engine)
        blob_store = open_blobs(blobs)
        yield Store(
            jobs=SqlJobStore(engine, clock),
            queries=Queries(engine, clock),
            devices=Devices(engine, clock),
            measurements=Measurements(engine, clock),
            quotas=Quotas(engine, clock),
            audit=Audit(engine),
            tokens=Tokens(engine, clock),
            sessions=TokenSessions(engine, clock),
            blobs=blob_store,
            collect=lambda **options: collect(engine, blob_store, clock(), **options),
        )
    finally:
        engine.dispose()
