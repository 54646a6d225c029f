"""Everything that is kept, in one value: the jobs, what can be read about them, and the blobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.core.ports import BlobStore
from server.store.blobs import open_blobs
from server.store.database import connect
from server.store.jobs import SqlJobStore
from server.store.migrate import migrate_engine
from server.store.queries import Queries


@dataclass(frozen=True)
class Store:
    """The database through two doors, one that writes and one that reads, and the blobs."""

    jobs: SqlJobStore
    queries: Queries
    blobs: BlobStore


@contextmanager
def open_store(database: str, blobs: str, clock: Callable[[], float] = time.time) -> Iterator[Store]:
    """Connects, brings the schema up to date, and closes the connections at the end.

    Raises InvalidInput for URLs that cannot be used, StorageError for a database that cannot.
    """
    engine = connect(database)
    try:
        migrate_engine(engine)
        yield Store(SqlJobStore(engine, clock), Queries(engine, clock), open_blobs(blobs))
    finally:
        engine.dispose()
