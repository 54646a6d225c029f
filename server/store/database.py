"""Database engines for SQLite and PostgreSQL, and sessions for ``reading`` and ``writing``."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from nas.core.errors import InvalidInput, StorageError

BUSY_MS = 20_000
_POOL: dict[str, Any] = {"pool_size": 16, "max_overflow": 32}  # at least as many as the server's request threads


class JsonText(str):
    """Serialised JSON, which is stored in a JSON column unchanged."""


def connect(url: str) -> Engine:
    """Return an engine for a database URL. Raises InvalidInput for a URL that is neither SQLite nor PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(f"not a database URL: {url!r}") from error
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise InvalidInput(f"expected an SQLite file such as sqlite:///hwnas.db, got {url!r}")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, json_serializer=_as_json, **_POOL)
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        case "postgresql" | "postgres":
            parsed = parsed.set(drivername="postgresql+psycopg")
            return create_engine(parsed, json_serializer=_as_json, pool_pre_ping=True, **_POOL)
        case other:
            raise InvalidInput(f"unknown database {other!r}: expected sqlite or postgresql")


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for a database on a server. Raises InvalidInput for what is no URL."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(f"not a database URL: {url!r}") from error
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Open a session on one snapshot. Raises StorageError if the database cannot be used."""
    snapshot = engine.execution_options(isolation_level="REPEATABLE READ") if _is_pg(engine) else engine
    with translated_errors(), Session(snapshot) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Open a session in one write transaction, committed at the end. Raises StorageError if it cannot be written.

    SQLite takes its single write lock at the beginning: a transaction that reads first and then writes would otherwise
    fail instead of waiting.
    """
    with (
        translated_errors(),
        Session(engine.execution_options(hwnas_write=True), expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StorageError if the database cannot be used, InvalidInput for a value that it cannot store."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise StorageError(f"the database cannot be used: {error.orig}") from error
    except PoolTimeout as error:
        raise StorageError(f"the database is too busy: {error}") from error
    except DataError as error:  # a NUL character, or a number beyond the column's range
        raise InvalidInput(f"the database cannot store a value: {error.orig}") from error
    except (OverflowError, UnicodeEncodeError) as error:  # the same from SQLite's driver
        raise InvalidInput(f"the database cannot store a value: {error}") from error


def _is_pg(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def _as_json(value: Any) -> str:
    return value if isinstance(value, JsonText) else json.dumps(value)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite begins transactions, not the driver
    connection.execute(f"PRAGMA busy_timeout={BUSY_MS}").close()
    _use_write_ahead_log(connection)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a new database to the write-ahead log. SQLite does not wait for another connection that switches it at the
    same moment, whatever its busy timeout; this does."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _begin_sqlite(connection: Any) -> None:
    write = connection.get_execution_options().get("hwnas_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
