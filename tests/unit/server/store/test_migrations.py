"""A database with rows goes to the newest schema and back, and loses nothing that both can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from nas.core.errors import Conflict
from server.store.database import connect
from server.store.migrate import alembic_config, head
from server.store.store import Store, open_store
from tests.support import fakes


def filled(url: str, folder: Path) -> tuple[str, str]:
    """A database with a device, a search that has ended and one that waits: their ids."""
    with open_store(url, str(folder), fakes.Clock()) as store:
        fakes.add_device(store)
        ended = fakes.add_search(store, key="first")
        fakes.run_log(store, fakes.search_log(store.blobs.put(b"abc")))
        return ended, fakes.add_search(store, key="second")


def to(url: str, revision: str) -> None:
    """Takes the database to an older schema."""
    engine = connect(url)
    with engine.execution_options(hwnas_write=True).begin() as connection:
        command.downgrade(alembic_config(connection), revision)
    engine.dispose()


def execute(url: str, sql: str) -> list[Any]:
    engine = connect(url)
    with engine.execution_options(hwnas_write=True).begin() as connection:
        done = connection.execute(text(sql))
        rows = list(done) if done.returns_rows else []
    engine.dispose()
    return rows


def everything(store: Store, search: str) -> list[Any]:
    """What people see of a search."""
    queries = store.queries
    return [
        queries.search(search),
        queries.candidates(search, None, None, "position", 100, None),
        queries.events(search, 0, 1000),
        queries.artifacts(search),
        queries.device("bench"),
    ]


@pytest.mark.parametrize("old", ["0001", "0002", "0003", "0004", "0005"])
def test_rows_survive_downgrade_and_upgrade(url: str, tmp_path: Path, old: str) -> None:
    blobs = tmp_path / "blobs"
    ended, _ = filled(url, blobs)
    with open_store(url, str(blobs), fakes.Clock()) as store:
        before = everything(store, ended)
    counts = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events), (SELECT count(*) FROM points)"
    rows = execute(url, counts)
    to(url, old)
    assert execute(url, counts) == rows
    assert execute(url, "SELECT version_num FROM alembic_version") == [(old,)]
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.revision() == head()
        assert everything(store, ended) == before


def test_keys_of_the_first_schema_find_their_searches(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    _, waiting = filled(url, blobs)
    to(url, "0001")
    assert ("second",) in execute(url, "SELECT idempotency_key FROM jobs")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert fakes.add_search(store, key="second") == waiting
        with pytest.raises(Conflict, match="second"):
            fakes.add_search(store, fakes.search_spec(name="another"), key="second")


def test_cancellation_requests_of_the_first_schema_are_cancelled(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    ended, waiting = filled(url, blobs)
    to(url, "0001")
    execute(url, f"UPDATE jobs SET cancel_requested = true, lease_token = 1 WHERE id = '{waiting}'")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.search(waiting).status == "cancelled"
        assert store.queries.search(ended).status == "succeeded"
        assert store.jobs.claim("worker", 10.0) is None


def test_devices_belong_to_who_added_them_first(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    filled(url, blobs)
    to(url, "0005")
    execute(url, "UPDATE jobs SET owner = 'ada' WHERE kind = 'device'")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.device("bench").owner == "ada"
