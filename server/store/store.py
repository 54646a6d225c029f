"""The store: jobs, queries, agents' measurements, quotas, audit trail, tokens and blobs in one value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.blobs import FolderBlobs, RemoteBlobs, open_blobs
from server.store.audit import Audit
from server.store.changes import JobChanges
from server.store.clock import database_clock
from server.store.database import connect
from server.store.devices import Devices
from server.store.garbage import CollectionResult, collect
from server.store.jobs import SqlJobStore
from server.store.marks import Marks
from server.store.measurements import Measurements
from server.store.migrate import migrate_engine
from server.store.named_data import NamedData
from server.store.notices import Notices
from server.store.queries import Queries
from server.store.quotas import Quotas
from server.store.sessions import TokenSessions
from server.store.tokens import Tokens
from server.store.user_models import UserModels


@dataclass(frozen=True)
class Store:
    """The parts of the store. ``collect`` removes unreferenced blobs, see ``server.store.garbage.collect``; ``changes``
    tells when jobs change."""

    jobs: SqlJobStore
    queries: Queries
    devices: Devices
    named_data: NamedData
    user_models: UserModels
    measurements: Measurements
    marks: Marks
    notices: Notices
    quotas: Quotas
    audit: Audit
    tokens: Tokens
    sessions: TokenSessions
    blobs: FolderBlobs | RemoteBlobs
    collect: Callable[..., CollectionResult]
    changes: JobChanges


@contextmanager
def open_store(database: str, blobs: str, clock: Callable[[], float] | None = None) -> Iterator[Store]:
    """Connect, migrate the schema, and close the connections at the end. ``clock`` gives seconds since 1970
    (None: the database's clock where it has one, else that of this host).

    Raises InvalidInput for invalid URLs, StorageError for a database that cannot be used.
    """
    engine = connect(database)
    changes = JobChanges(engine)
    try:
        migrate_engine(engine)
        blob_store = open_blobs(blobs)
        database_time = database_clock(engine, clock)
        host_time = clock or time.time
        yield Store(
            jobs=SqlJobStore(engine, database_time),
            queries=Queries(engine, database_time),
            devices=Devices(engine, database_time),
            named_data=NamedData(engine, database_time),
            user_models=UserModels(engine, database_time),
            measurements=Measurements(engine, database_time),
            marks=Marks(engine, database_time),
            notices=Notices(engine, database_time),
            quotas=Quotas(engine, database_time),
            audit=Audit(engine),
            tokens=Tokens(engine, host_time),
            sessions=TokenSessions(engine, host_time),
            blobs=blob_store,
            collect=lambda **options: collect(engine, blob_store, host_time(), **options),
            changes=changes,
        )
    finally:
        changes.close()
        engine.dispose()
