"""Databases that are damaged, locked or belong to another program; and who may read the files of a home."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from nas.core.errors import StorageBusy, StorageError
from server.api.app import create_app
from server.cli.doctor import examine
from server.cli.runtime import prepare_home
from server.settings import Settings
from server.store import database
from server.store.store import open_store
from tests.support import fakes


def write_garbage(file: Path) -> None:
    file.write_bytes(b"certainly no database " * 500)


def write_truncated(file: Path) -> None:
    with open_store(f"sqlite:///{file}", str(file.parent / "blobs")) as store:
        fakes.add_device(store)
        fakes.add_search(store)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])


def write_optuna(file: Path) -> None:
    """The tables that Optuna makes, with Alembic as we do."""
    connection = sqlite3.connect(file)
    for table in ("studies", "trials", "version_info", "alembic_version (version_num VARCHAR(32))"):
        connection.execute(f"CREATE TABLE {table}{'' if '(' in table else ' (id INTEGER)'}")
    connection.execute("INSERT INTO alembic_version VALUES ('v3.2.0.a')")
    connection.commit()
    connection.close()


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "garbage": (write_garbage, "no database"),
    "truncated": (write_truncated, "damaged"),
    "another program": (write_optuna, "tables of another program .*studies"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_ours_are_refused_in_one_line_and_not_changed(tmp_path: Path, name: str) -> None:
    write, reason = FILES[name]
    file = tmp_path / "hwnas.db"
    write(file)
    content, mode = file.read_bytes(), file.stat().st_mode
    with pytest.raises(StorageError, match=reason) as raised, open_store(f"sqlite:///{file}", str(tmp_path)):
        pass
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)
    checks = {check.name: check for check in examine(Settings(home=tmp_path, port=0))}
    assert checks["database"].status == "failed"
    assert str(file) in checks["database"].detail
    assert "\n" not in checks["database"].detail
    assert (file.read_bytes(), file.stat().st_mode) == (content, mode)


@pytest.mark.postgres
def test_a_postgresql_database_of_another_program_is_refused(postgres: str, tmp_path: Path) -> None:
    from sqlalchemy import inspect, text

    from tests.support.databases import postgres_url

    url = postgres_url(postgres, "optuna")
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE studies (id INTEGER)"))
    with pytest.raises(StorageError, match="studies"), open_store(url, str(tmp_path)):
        pass
    assert inspect(engine).get_table_names() == ["studies"]
    engine.dispose()


def test_a_locked_database_answers_503_and_when_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_MS", 50)
    file = tmp_path / "hwnas.db"
    with open_store(f"sqlite:///{file}", str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        search = fakes.add_search(store)
        api = TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1")
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = api.post(f"/v1/searches/{search}/pause")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_busy")
        assert int(answer.headers["Retry-After"]) > 0
        with pytest.raises(StorageBusy):
            store.jobs.claim("worker", 10.0)
        other.execute("ROLLBACK")
        other.close()
        assert api.post(f"/v1/searches/{search}/pause").status_code == 200


def test_the_home_is_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(home=home)
    for _ in range(2):  # a new home, and one that others could read
        prepare_home(settings)
        with open_store(settings.database, settings.blobs) as store:
            fakes.add_device(store)
            files = [path for path in home.iterdir() if path.name.startswith("hwnas.db")]
            assert len(files) == 3  # with the write-ahead log
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert home.stat().st_mode & 0o777 == 0o700
        home.chmod(0o755)
        (home / "hwnas.db").chmod(0o644)
