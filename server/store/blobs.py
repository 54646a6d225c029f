"""Blobs by content: a local folder, or anything fsspec can reach. No database here, so workers use it as well."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas.core.errors import InvalidInput, NotFound, StorageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def open_blobs(url: str) -> FolderBlobs | RemoteBlobs:
    """The blob store at ``url``: a path or any fsspec URL. Raises InvalidInput for a protocol that is not known."""
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"cannot keep blobs at {url!r}: {error}") from error
    return FolderBlobs(Path(root)) if isinstance(fs, LocalFileSystem) else RemoteBlobs(fs, root)


class FolderBlobs:
    """Blobs in a local folder. A blob appears under its name only once all of it is on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes) -> str:
        """Stores and returns the sha256. Raises StorageError."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        with _storing(sha256):
            if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                path.touch()  # young again: no collection may take it now
                return sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{sha256}.{secrets.token_hex(4)}.part")
            try:
                with part.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Raises NotFound, or StorageError when the bytes do not match their name."""
        with _storing(sha256):
            return _intact(self._path(sha256).read_bytes(), sha256)

    def open(self, sha256: str) -> BinaryIO:
        """The verified bytes as a file. Raises as ``get``."""
        return io.BytesIO(self.get(sha256))

    def list(self) -> Iterator[tuple[str, int, float]]:
        """(sha256, size in bytes, when it was last put, in seconds since 1970) of every blob. Raises StorageError."""
        with _storing("list"):
            for path in self.root.glob("??/*"):
                if _SHA256.fullmatch(path.name):
                    info = path.stat()
                    yield path.name, info.st_size, info.st_mtime

    def delete(self, sha256: str) -> None:
        """Forgets a blob; nothing happens if it is not there."""
        with _storing(sha256):
            self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.root / _checked(sha256)[:2] / sha256


class RemoteBlobs:
    """Blobs in an fsspec file system such as an object store, whose single ``put`` is atomic by itself."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")

    def put(self, data: bytes) -> str:
        """Stores and returns the sha256. Raises StorageError."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        with _storing(sha256):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(path, data)  # even if it is there: that makes it young, so no collection takes it now
        return sha256

    def get(self, sha256: str) -> bytes:
        """Raises NotFound, or StorageError when the bytes do not match their name."""
        with _storing(sha256):
            return _intact(self.fs.cat_file(self._path(sha256)), sha256)

    def open(self, sha256: str) -> BinaryIO:
        """The verified bytes as a file. Raises as ``get``."""
        return io.BytesIO(self.get(sha256))

    def list(self) -> Iterator[tuple[str, int, float]]:
        """(sha256, size in bytes, when it was last put, in seconds since 1970) of every blob. Raises StorageError."""
        with _storing("list"):
            self.fs.invalidate_cache()
            found = self.fs.find(self.root, detail=True) if self.fs.exists(self.root) else {}
            for path, info in found.items():
                name = path.rpartition("/")[2]
                if _SHA256.fullmatch(name):
                    yield name, int(info["size"]), self.fs.modified(path).timestamp()

    def delete(self, sha256: str) -> None:
        """Forgets a blob; nothing happens if it is not there."""
        with _storing(sha256):
            path = self._path(sha256)
            if self.fs.exists(path):
                self.fs.rm_file(path)

    def _path(self, sha256: str) -> str:
        return f"{self.root}/{_checked(sha256)[:2]}/{sha256}"


def _checked(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise NotFound(f"no blob {sha256!r}: expected a sha256 of 64 hexadecimal digits")
    return sha256


def _intact(data: bytes, sha256: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise StorageError(f"blob {sha256} is damaged: its {len(data)} bytes have sha256 {found}")
    return data


@contextmanager
def _storing(sha256: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no blob {sha256}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise StorageError(f"blob {sha256} cannot be stored or read: {reason}") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
