"""Databases for tests: SQLite files, and a PostgreSQL server that lives as long as the test session."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DatabaseError

from server.store.migrate import migrate, migrate_engine
from workers.processes import _start_time

STOP_S = 60.0  # for a server to stop
_HOMES = [Path("/usr/lib/postgresql") / str(v) / "bin" for v in range(20, 12, -1)]


@contextmanager
def migrated_once() -> Iterator[None]:
    """While the block runs, a new database that a store opens in this process gets its schema as a copy of one that was
    migrated: hundreds of tests open one, and migrating takes longer than most of them."""
    with tempfile.TemporaryDirectory(prefix="hwnas-schema-") as folder:
        file = Path(folder) / "schema.db"
        migrate(f"sqlite:///{file}")
        with closing(sqlite3.connect(file, check_same_thread=False)) as schema:

            def copy_or_migrate(engine: Engine) -> None:
                if not _is_new(engine):
                    migrate_engine(engine)
                elif engine.dialect.name == "sqlite":
                    with closing(engine.raw_connection()) as connection:
                        assert isinstance(connection.driver_connection, sqlite3.Connection)
                        schema.backup(connection.driver_connection)
                else:
                    with _postgres_connection(engine) as connection:
                        connection.execute(_postgres_schema(connection.info.host))

            with patch("server.store.store.migrate_engine", copy_or_migrate):
                yield


def _is_new(engine: Engine) -> bool:
    try:
        return not inspect(engine).get_table_names()
    except DatabaseError:  # which migrating then reports as the store does
        return False


@cache
def _postgres_schema(folder: str) -> bytes:
    """The statements that make a migrated database, from one on a server."""
    home, name = _binaries(), "hwnas_schema"
    assert home is not None
    migrate(postgres_url(folder, name))
    command = [str(home / "pg_dump"), "--host", folder, "--username", "postgres", "--no-owner", "--inserts", name]
    dump = subprocess.run(command, check=True, capture_output=True).stdout
    return b"\n".join(line for line in dump.splitlines() if not line.startswith(b"\\"))  # those are psql's


def _postgres_connection(engine: Engine) -> psycopg.Connection[Any]:
    """A connection of its own, since a dump changes settings of the session."""
    arguments, options = engine.dialect.create_connect_args(engine.url)
    return psycopg.connect(*arguments, **options)


def postgres_missing() -> str | None:
    """Why no PostgreSQL server can be started here, or None."""
    if _binaries() is None:
        return "no PostgreSQL server (initdb, pg_ctl) is installed"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or _postgres_uid() is None):
        return "PostgreSQL does not run as root, and there is no user postgres to run it as"
    return None


@contextmanager
def postgres_server(durable: bool = False, connections: int = 40) -> Iterator[str]:
    """A fresh server on a socket of its own, no network; gives its folder, which ``postgres_url`` takes. ``durable``
    as a real one: each commit waits for the disk."""
    home = _binaries()
    assert home is not None
    folder = Path(tempfile.mkdtemp(prefix="hwnas-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        uid = _postgres_uid()
        assert uid is not None
        os.chown(folder, uid, -1)
        prefix = ["setpriv", f"--reuid={uid}", "--clear-groups"]
    data = folder / "data"
    run = [*prefix, str(home / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
    _run([*run, "--locale=C"], folder)
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c max_connections={connections}"
    options += "" if durable else " -c fsync=off"
    # Not a child of this process: tests end the processes below it.
    start = [*prefix, str(home / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"]
    try:
        _run(start, folder)
        yield str(folder)
    finally:
        _stop(data)
        shutil.rmtree(folder)


def _stop(data: Path) -> None:
    """Stop a server at once. ``pg_ctl`` would wait until the init process has taken notice, which can take long."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().splitlines()[0])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + STOP_S
    while _start_time(pid) is not None:
        assert time.monotonic() < deadline, f"PostgreSQL {pid} goes on running"
        time.sleep(0.02)


def postgres_url(folder: str, name: str) -> str:
    """The URL of a new, empty database of a server."""
    with psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql://postgres@/{name}?host={folder}"


def _binaries() -> Path | None:
    homes = [home for home in _HOMES if (home / "initdb").exists() and (home / "pg_ctl").exists()]
    on_path = shutil.which("initdb")
    return homes[0] if homes else Path(on_path).parent if on_path is not None else None


def _postgres_uid() -> int | None:
    import pwd

    return next((u.pw_uid for u in pwd.getpwall() if u.pw_name == "postgres"), None)


def _run(command: list[str], cwd: Path) -> None:
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
