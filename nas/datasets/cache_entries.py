"""What lies in the cache of data sets, who uses it, and making room: least recently used first, never one in use.

Whoever reads an entry holds a shared lock on the file ``NAME.lock`` beside it, which the system frees when its process
ends. The file's time is that of the last use, its content says what was prepared.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from nas.core.errors import InvalidInput, StorageError

EntryKind = Literal["prepared", "copies"]
_KINDS: tuple[EntryKind, ...] = ("prepared", "copies")  # folders of the cache: shards, and copies of remote files
_LOCK = ".lock"


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache. ``source``: what was prepared or copied, as its user called it; ``used_at``: seconds
    since 1970."""

    kind: EntryKind
    path: Path
    source: str
    size_bytes: int
    used_at: float
    in_use: bool


class CacheUse:
    """A shared lock on an entry, until it is closed or nothing refers to it. Makes the entry the most recently used."""

    def __init__(self, entry: Path, source: str = "") -> None:
        """Waits while the entry is deleted. ``source``: what it is; empty leaves what is noted."""
        lock = _lock_path(entry)
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.close = weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if source and not os.fstat(descriptor).st_size:
            os.write(descriptor, source.encode())
        os.utime(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def cache_entries(cache: Path) -> list[CacheEntry]:
    """All entries, the least recently used first."""
    folders = ((kind, path) for kind in _KINDS if (cache / kind).is_dir() for path in (cache / kind).iterdir())
    return sorted((_entry(kind, path) for kind, path in folders if path.is_dir()), key=lambda entry: entry.used_at)


def make_room(cache: Path, limit_bytes: int, needed_bytes: int = 0) -> list[CacheEntry]:
    """Delete entries until all together take at most the limit less what is needed; returns those that were deleted.

    Raises StorageError, having deleted nothing, where those that are in use leave too little.
    """
    entries = cache_entries(cache)
    used_bytes = sum(entry.size_bytes for entry in entries if entry.in_use)
    if needed_bytes and used_bytes + needed_bytes > limit_bytes:
        raise StorageError(
            f"{cache}: the data set takes {needed_bytes / 1e9:.2f} GB, and of the {limit_bytes / 1e9:.2f} GB that the "
            f"cache may take, {used_bytes / 1e9:.2f} GB are in use: raise HWNAS_DATA_CACHE_GB, or try again later"
        )
    total_bytes, deleted = sum(entry.size_bytes for entry in entries), []
    for entry in entries:
        if total_bytes + needed_bytes <= limit_bytes:
            break
        if delete_unused(entry):
            deleted.append(entry)
            total_bytes -= entry.size_bytes
    return deleted


def delete_unused(entry: CacheEntry) -> bool:
    """Delete an entry unless it is in use; whether it was deleted."""
    with _exclusive(entry.path) as is_free:
        if is_free:
            shutil.rmtree(entry.path, ignore_errors=True)  # the lock stays: others may wait for it
        return is_free


def size_below(folder: Path) -> int:
    """What the files below a folder take; 0 for none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def limit_bytes() -> int | None:
    """What the cache may take, as ``HWNAS_DATA_CACHE_GB`` says; None: as much as there is. Raises InvalidInput."""
    text = os.environ.get("HWNAS_DATA_CACHE_GB")
    if not text:
        return None
    try:
        return round(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"HWNAS_DATA_CACHE_GB: expected a number of GB, got {text!r}") from error


def _entry(kind: EntryKind, path: Path) -> CacheEntry:
    lock = _lock_path(path)
    is_noted = lock.exists()
    with _exclusive(path) as is_free:
        return CacheEntry(
            kind,
            path,
            lock.read_text(encoding="utf-8") if is_noted else "",
            size_below(path),
            (lock if is_noted else path).stat().st_mtime,
            in_use=not is_free,
        )


@contextmanager
def _exclusive(entry: Path) -> Iterator[bool]:
    """Whether nobody uses an entry; if so, nobody begins to until the context ends."""
    lock = _lock_path(entry)
    if not lock.exists():  # of an earlier version, which held no locks
        yield True
        return
    with lock.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _lock_path(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}{_LOCK}")
