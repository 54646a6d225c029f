"""Database engines for SQLite and PostgreSQL, and sessions for ``reading`` and ``writing``."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, Executable, Table, bindparam, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from nas.core.errors import InvalidInput, StorageBusy, StorageError

BUSY_MS = 20_000
_OWN_TABLES = {"jobs", "events", "alembic_version"}
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# SQLSTATEs. Classes: no connection, rolled back against a deadlock, shutting down or cancelled. Single ones: too many
# connections, a lock that was not available. A full disk is none of them.
_TEMPORARY_CLASSES, _TEMPORARY = ("08", "40", "57"), ("53300", "55P03")
_AT_END = "at the end"  # in ``Session.info``
_POOL = {"pool_size": 16, "max_overflow": 32}  # at least as many as the server's request threads


class JsonText(str):
    """Serialised JSON, which is stored in a JSON column unchanged."""


def connect(url: str) -> Engine:
    """Return an engine for a database URL. Raises InvalidInput for a URL that is neither SQLite nor PostgreSQL, and
    StorageError, having changed nothing, for a file that is damaged or belongs to another program."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(f"not a database URL: {url!r}") from error
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise InvalidInput(f"expected an SQLite file such as sqlite:///hwnas.db, got {url!r}")
            _prepare_file(Path(parsed.database))
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
        for write in session.info.pop(_AT_END, {}).values():
            write(session)


def at_end(session: Session, write: Callable[[Session], None]) -> None:
    """Call ``write`` once at the end of the transaction, whose last locks it takes."""
    session.info.setdefault(_AT_END, {})[write.__qualname__] = write


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise StorageBusy if the database cannot be used at the moment, StorageError if it cannot be used at all, and
    InvalidInput for a value that it cannot store."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        kind = StorageBusy if _is_temporary(error) else StorageError
        raise kind(f"the database cannot be used: {error.orig}") from error
    except PoolTimeout as error:
        raise StorageBusy(f"the database is too busy: {error}") from error
    except DataError as error:  # a NUL character, or a number beyond the column's range
        raise InvalidInput(f"the database cannot store a value: {error.orig}") from error
    except (OverflowError, UnicodeEncodeError) as error:  # the same from SQLite's driver
        raise InvalidInput(f"the database cannot store a value: {error}") from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and error.orig.sqlite_errorcode & 0xFF in _DAMAGED_CODES:
            raise StorageError(f"the database is damaged, or no database: {error.orig}") from error
        raise


def _is_temporary(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed later."""
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode & 0xFF in _BUSY_CODES
    answer: Any = error.orig  # an error of psycopg, whose SQLSTATE is None where the server has not answered
    state = answer.sqlstate
    return state is None or state[:2] in _TEMPORARY_CLASSES or state in _TEMPORARY


def _is_pg(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def _as_json(value: Any) -> str:
    return value if isinstance(value, JsonText) else json.dumps(value)


def upsert(session: Session, table: Table, values: Mapping[str, object], *, adding: Collection[str] = ()) -> None:
    """Insert a row, or update the one with the same key; the columns in ``adding`` are added to what they hold."""
    session.connection().execute(
        _upsert(session.get_bind().dialect.name, table, tuple(values), frozenset(adding)), values
    )


@lru_cache(maxsize=64)
def _upsert(dialect: str, table: Table, names: tuple[str, ...], adding: frozenset[str]) -> Executable:
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table).values({name: bindparam(name) for name in names})
    new = statement.excluded
    changed = {n: table.c[n] + new[n] if n in adding else new[n] for n in names if not table.c[n].primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)


def require_own_tables(tables: Collection[str], database: str) -> None:
    """Raise StorageError if these are the tables of another program. A database without tables is free."""
    if tables and not set(tables) >= _OWN_TABLES:
        names = ", ".join(sorted(tables)[:4])
        raise StorageError(f"{database} is not a database of hwnas: it has tables of another program ({names})")


def _prepare_file(file: Path) -> None:
    """Check an SQLite file, or create it, so that its owner alone can read it. SQLite gives its other files the same
    mode. Raises StorageError."""
    try:
        if file.exists() and file.stat().st_size > 0:
            require_own_tables(_tables_of(file), str(file))
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        for path in (file, *(file.with_name(f"{file.name}-{suffix}") for suffix in ("wal", "shm"))):
            if path.exists() and path.stat().st_mode & 0o077:
                path.chmod(0o600)
    except OSError as error:
        raise StorageError(f"cannot use {file} as a database: {error.strerror}") from error


def _tables_of(file: Path) -> list[str]:
    """The tables of an SQLite file, which is not changed. Raises StorageError."""
    try:
        connection = sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=BUSY_MS / 1000)
        try:
            return [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        finally:
            connection.close()
    except sqlite3.Error as error:
        busy = error.sqlite_errorcode & 0xFF in _BUSY_CODES
        reason = f"{file} is locked by another process" if busy else f"{file} is damaged, or no database: {error}"
        raise (StorageBusy if busy else StorageError)(reason) from error


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
