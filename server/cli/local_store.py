"""The store of a local service, for commands that work without a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.cli.runtime import prepare_home, read_settings
from server.store.store import Store, open_store


@contextmanager
def opened_store(home: Path | None) -> Iterator[Store]:
    """The store of the service in ``home``, created if missing. Raises InvalidInput or StorageError."""
    settings = read_settings({"home": home} if home is not None else {})
    prepare_home(settings)
    with open_store(settings.database, settings.blobs) as store:
        yield store
