"""Databases for tests: SQLite files, and a PostgreSQL server that lives as long as the test session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_HOMES = [Path("/usr/lib/postgresql") / str(v) / "bin" for v in range(20, 12, -1)]


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
    try:
        _run(
            [*prefix, str(home / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start"],
            folder,
        )
        yield str(folder)
    finally:
        _run([*prefix, str(home / "pg_ctl"), "-D", str(data), "-w", "-m", "immediate", "stop"], folder)
        shutil.rmtree(folder)


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
