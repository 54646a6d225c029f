"""Back up an embedded service into one archive while it runs, and restore it.

The archive holds a snapshot of the database, every referenced blob under its sha256, and a manifest. For PostgreSQL see
docs/operations.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from sqlalchemy import Engine, make_url
from sqlalchemy.orm import Session

from nas.blobs import FolderBlobs, open_blobs
from nas.core.errors import InvalidInput, NotFound, StorageError
from server.store.database import connect
from server.store.garbage import referenced_blobs
from server.store.migrate import migrate_engine


class BackupManifest(TypedDict):
    """What an archive holds: the number of its blobs, and those that were lost before."""

    version: str
    at: float
    database_sha256: str
    blobs: int
    missing: list[str]


_DATABASE, _MANIFEST, _BLOBS = "hwnas.db", "manifest.json", "blobs"


def back_up(database: str, blobs: str, archive: Path, clock: Callable[[], float] = time.time) -> BackupManifest:
    """Write the archive and return its manifest. Raises InvalidInput if the database is not SQLite or the archive
    exists, StorageError if a blob is damaged."""
    url = make_url(database)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise InvalidInput("expected an embedded SQLite database; for PostgreSQL use pg_dump, see docs/operations.md")
    if not Path(url.database).exists():
        raise NotFound(f"there is no database {url.database} to back up")
    if archive.exists():
        raise InvalidInput(f"{archive} already exists")
    store = open_blobs(blobs)
    partial = archive.with_name(f".{archive.name}.part")
    with tempfile.TemporaryDirectory(prefix="hwnas-backup-") as folder:
        copy = Path(folder) / _DATABASE
        _copy(Path(url.database), copy)
        engine = connect(f"sqlite:///{quote(str(copy))}")
        used, missing = _referenced_by(engine), []
        engine.dispose()
        try:
            with tarfile.open(partial, "w:gz") as tar:
                tar.add(copy, _DATABASE)
                for sha256 in sorted(used):
                    try:
                        _add(tar, f"{_BLOBS}/{sha256}", store.get(sha256))
                    except NotFound:  # already lost: report it in the manifest instead of failing the backup
                        missing.append(sha256)
                manifest: BackupManifest = {
                    "version": version("hwnas"),
                    "at": clock(),
                    "database_sha256": hashlib.sha256(copy.read_bytes()).hexdigest(),
                    "blobs": len(used) - len(missing),
                    "missing": missing,
                }
                _add(tar, _MANIFEST, json.dumps(manifest, indent=2).encode())
            partial.replace(archive)
        except OSError as error:
            raise StorageError(f"cannot write {archive}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
    return manifest


def restore(archive: Path, home: Path) -> BackupManifest:
    """Unpack an archive into an empty or missing home folder, verify every hash, and return the manifest. Raises
    InvalidInput."""
    if home.exists() and any(home.iterdir()):
        raise InvalidInput(f"expected an empty folder to restore into, got {home}, which is not empty")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            parts = {m.name: m for m in tar.getmembers() if m.isfile()}
            if not {_MANIFEST, _DATABASE} <= parts.keys():
                raise InvalidInput(f"{archive} is not a backup: expected {_MANIFEST} and {_DATABASE} in it")
            manifest: BackupManifest = json.loads(_read(tar, parts[_MANIFEST]))
            database = _read(tar, parts[_DATABASE])
            if hashlib.sha256(database).hexdigest() != manifest["database_sha256"]:
                raise InvalidInput(f"{archive} is damaged: its database has another hash than its manifest says")
            home.mkdir(parents=True, exist_ok=True)
            blobs = FolderBlobs(home / _BLOBS)
            names = [name.removeprefix(f"{_BLOBS}/") for name in parts if name.startswith(f"{_BLOBS}/")]
            for sha256 in names:
                if blobs.put(_read(tar, parts[f"{_BLOBS}/{sha256}"])) != sha256:
                    raise InvalidInput(f"{archive} is damaged: blob {sha256} has another hash")
            if len(names) != manifest["blobs"]:
                raise InvalidInput(f"{archive} is damaged: expected {manifest['blobs']} blobs, got {len(names)}")
            (home / _DATABASE).write_bytes(database)  # last: a folder without it is not a home
    except (OSError, tarfile.TarError, EOFError, json.JSONDecodeError, KeyError) as error:
        raise InvalidInput(f"cannot restore {archive}: {error}") from error
    engine = connect(f"sqlite:///{quote(str(home / _DATABASE))}")
    migrate_engine(engine)
    engine.dispose()
    return manifest


def _copy(source: Path, target: Path) -> None:
    """Copy a database consistently while other processes write to it (SQLite's online backup)."""
    if not source.exists():
        raise InvalidInput(f"expected a database at {source}, got none")
    before, after = sqlite3.connect(source), sqlite3.connect(target)
    try:
        before.backup(after)
    except sqlite3.Error as error:
        raise StorageError(f"the database cannot be copied: {error}") from error
    finally:
        before.close()
        after.close()


def _referenced_by(engine: Engine) -> set[str]:
    with Session(engine) as session:
        return referenced_blobs(session)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
