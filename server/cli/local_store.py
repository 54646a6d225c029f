"""The store of a local service, for commands that work without a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.core.errors import NotFound
from server.cli.runtime import prepare_home, read_settings
from server.settings import Settings
from server.store.database import sqlite_file
from server.store.store import Store, open_store


@contextmanager
def opened_store(home: Path | None, create: bool = False) -> Iterator[Store]:
    """The store of the service in ``home``; with ``create``, made if missing. Raises InvalidInput, StorageError, or
    NotFound for a service that does not exist: looking at it creates nothing."""
    settings = read_settings({"home": home} if home is not None else {})
    if create:
        prepare_home(settings)
    elif (missing := missing_database(settings)) is not None:
        raise NotFound(
            f"no service was ever started in {settings.home} (no file {missing}): expected --home with its folder, or "
            "HWNAS_URL with the address of a service elsewhere"
        )
    with open_store(settings.database, settings.blobs) as store:
        yield store


def missing_database(settings: Settings) -> Path | None:
    """The SQLite file of the settings if it does not exist; None if it does, and for databases on a server."""
    file = sqlite_file(settings.database)
    return None if file is None or file.exists() else file
