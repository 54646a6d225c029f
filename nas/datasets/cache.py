"""The folder on each machine in which prepared data sets and copies of remote sources lie."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import fsspec

from nas.core.errors import InvalidData, StorageError
from nas.datasets.cache_entries import CacheUse, limit_bytes, make_room


def cache_folder() -> Path:
    """As the environment says: ``HWNAS_DATA_CACHE``, else ``data-cache`` in ``HWNAS_HOME``, whose default is
    ``~/.hwnas``."""
    if folder := os.environ.get("HWNAS_DATA_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("HWNAS_HOME", "~/.hwnas")).expanduser() / "data-cache"


def is_url(path: str) -> bool:
    """Whether a path names another file system than the local one, as fsspec does: ``s3://bucket/photos``."""
    return "://" in path


def local_copy(url: str, cache: Path | None = None) -> Path:
    """The files at a URL, copied to this machine. A copy that was begun goes on, files that have changed are copied
    again, and those that are gone there are deleted.

    Raises InvalidData where nothing lies at the URL or it cannot be read, StorageError where the copy cannot be
    written.
    """
    cache = cache or cache_folder()
    target = _copy_folder(url, cache)
    try:
        fs, root = fsspec.core.url_to_fs(url)
        listing: Mapping[str, Mapping[str, object]] = fs.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise InvalidData(f"{url} cannot be read: {error}") from error
    if not listing:
        raise InvalidData(f"{url}: expected a file or a folder, got nothing there")
    files = {name: _place(target, root, name) for name in listing}
    with CacheUse(target, url):
        missing = [int(str(listing[name].get("size") or 0)) for name, path in files.items() if not path.exists()]
        if missing and (limit := limit_bytes()) is not None:
            make_room(cache, limit, sum(missing))
        for name, path in files.items():
            _fetch(fs, name, path, _version(listing[name]))
        _delete_others(target, set(files.values()))
    whole_file = files.get(root)
    return whole_file or target


def copy_in_use(path: str | None) -> AbstractContextManager[object]:
    """As long as the context lasts, the copy of a URL is not deleted; of anything else, there is none."""
    return CacheUse(_copy_folder(path, cache_folder()), path) if path is not None and is_url(path) else nullcontext()


def _copy_folder(url: str, cache: Path) -> Path:
    return cache / "copies" / hashlib.sha256(url.encode()).hexdigest()[:32]


def fingerprint(path: Path) -> str:
    """Changes when a file at or below a path does, by names, sizes and times of change."""
    digest, root = hashlib.sha256(), str(path)
    visible = (file for file in files_below(path) if not file.rpartition("/")[2].startswith("."))
    for entry in [root] if path.is_file() else sorted(visible):
        status = _status(entry)
        digest.update(
            f"{entry.removeprefix(root)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _status(entry: str) -> os.stat_result:
    try:
        return Path(entry).stat()
    except FileNotFoundError:  # a link to nothing
        return Path(entry).lstat()


def _place(target: Path, root: str, name: str) -> Path:
    relative = name.removeprefix(root).lstrip("/") or name.rpartition("/")[2]
    place = target / relative
    if not place.resolve().is_relative_to(target.resolve()):
        raise InvalidData(f"{name}: expected a file below {root}")
    return place


def _version(info: Mapping[str, object]) -> str:
    """What tells one content of a remote file from another."""
    keys = ("ETag", "etag", "md5", "LastModified", "mtime", "created", "size")
    return "\0".join(f"{key}={info[key]}" for key in keys if info.get(key) is not None)


def _fetch(fs: fsspec.AbstractFileSystem, name: str, path: Path, version: str) -> None:
    """Copy a file unless this version of it lies there."""
    note = path.with_name(f".{path.name}.version")
    try:
        if path.exists() and note.exists() and note.read_text() == version:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            fs.get_file(name, str(part))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        note.write_text(version)
    except FileNotFoundError as error:
        raise InvalidData(f"{name} has vanished while it was copied") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{path}: the disk is full: make room, or set HWNAS_DATA_CACHE to a folder on a larger disk"
            ) from error
        raise InvalidData(f"{name} cannot be copied: {error}") from error


def _delete_others(target: Path, places: set[Path]) -> None:
    if not target.is_dir():
        return
    for path in target.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path not in places:
            path.unlink()


def files_below(root: Path) -> Iterator[str]:
    """The paths of all files below a folder, each folder once though links lead in circles."""
    visited: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()
            continue
        visited.add(real)
        yield from (f"{folder}/{name}" for name in names)
