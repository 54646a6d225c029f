"""Content-addressed blob store: a local folder or any fsspec file system. Shared by the server and the workers."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas.core.errors import DamagedBlob, InvalidInput, NotFound, StorageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def open_blobs(url: str) -> FolderBlobs | RemoteBlobs:
    """Open the blob store at ``url``, a path or any fsspec URL. Raises InvalidInput for an unknown protocol."""
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"cannot use {url!r} as a blob store: {error}") from error
    return FolderBlobs(Path(root)) if isinstance(fs, LocalFileSystem) else RemoteBlobs(fs, root)


@dataclass(frozen=True)
class BlobInfo:
    """A stored blob. ``stored_at`` is the time of the last ``put``, in seconds since 1970."""

    sha256: str
    size_bytes: int
    stored_at: float


class FolderBlobs:
    """Blobs in a local folder. A blob gets its final name only after all its bytes are on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, data: bytes) -> str:
        """Store the bytes and return their sha256. Raises StorageError."""
        return self._write(hashlib.sha256(data).hexdigest(), io.BytesIO(data))

    def put_file(self, source: Path) -> str:
        """Store the content of a file, without reading it as a whole, and return its sha256. Raises StorageError."""
        with source.open("rb") as content:
            return self._write(_sha256_of(source), content)

    def has(self, sha256: str) -> bool:
        """Whether there is such a blob."""
        with _storage_errors(sha256):
            return self._path(sha256).exists()

    def get(self, sha256: str) -> bytes:
        """Return the verified bytes. Raises NotFound, or StorageError if they do not match their sha256."""
        with _storage_errors(sha256):
            return _verified(self._path(sha256).read_bytes(), sha256)

    def open(self, sha256: str) -> BinaryIO:
        """Return the verified bytes as a file. Raises the same errors as ``get``."""
        return io.BytesIO(self.get(sha256))

    def list(self) -> Iterator[BlobInfo]:
        """Yield every blob in the store. Raises StorageError."""
        with _storage_errors("list"):
            for path in self.root.glob("??/*"):
                if _SHA256.fullmatch(path.name):
                    info = path.stat()
                    yield BlobInfo(path.name, info.st_size, info.st_mtime)

    def delete(self, sha256: str) -> None:
        """Delete a blob if it exists."""
        with _storage_errors(sha256):
            self._path(sha256).unlink(missing_ok=True)

    def _write(self, sha256: str, content: BinaryIO) -> str:
        """Write a blob whose sha256 is known, unless it is there and whole."""
        path = self._path(sha256)
        with _storage_errors(sha256):
            if path.exists() and _sha256_of(path) == sha256:
                path.touch()  # restarts the grace period of garbage collection
                return sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{sha256}.{secrets.token_hex(4)}.part")
            try:
                with part.open("xb") as file:
                    shutil.copyfileobj(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return sha256

    def _path(self, sha256: str) -> Path:
        return self.root / _checked_name(sha256)[:2] / sha256


class RemoteBlobs:
    """Blobs in an fsspec file system such as an object store, where writing one object is atomic."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")

    def put(self, data: bytes) -> str:
        """Store the bytes and return their sha256. Raises StorageError."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self._path(sha256)
        with _storage_errors(sha256):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.pipe_file(path, data)  # a new date restarts the grace period of garbage collection
        return sha256

    def put_file(self, source: Path) -> str:
        """Store the content of a file, without reading it as a whole, and return its sha256. Raises StorageError."""
        sha256 = _sha256_of(source)
        path = self._path(sha256)
        with _storage_errors(sha256):
            self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(source), path)
        return sha256

    def has(self, sha256: str) -> bool:
        """Whether there is such a blob."""
        with _storage_errors(sha256):
            return bool(self.fs.exists(self._path(sha256)))

    def get(self, sha256: str) -> bytes:
        """Return the verified bytes. Raises NotFound, or StorageError if they do not match their sha256."""
        with _storage_errors(sha256):
            return _verified(self.fs.cat_file(self._path(sha256)), sha256)

    def open(self, sha256: str) -> BinaryIO:
        """Return the verified bytes as a file. Raises the same errors as ``get``."""
        return io.BytesIO(self.get(sha256))

    def list(self) -> Iterator[BlobInfo]:
        """Yield every blob in the store. Raises StorageError."""
        with _storage_errors("list"):
            self.fs.invalidate_cache()
            listing = self.fs.find(self.root, detail=True) if self.fs.exists(self.root) else {}
            for path, info in listing.items():
                name = path.rpartition("/")[2]
                if _SHA256.fullmatch(name):
                    yield BlobInfo(name, int(info["size"]), self.fs.modified(path).timestamp())

    def delete(self, sha256: str) -> None:
        """Delete a blob if it exists."""
        with _storage_errors(sha256):
            path = self._path(sha256)
            if self.fs.exists(path):
                self.fs.rm_file(path)

    def _path(self, sha256: str) -> str:
        return f"{self.root}/{_checked_name(sha256)[:2]}/{sha256}"


def _checked_name(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise NotFound(f"no blob {sha256!r}: expected a sha256 of 64 hexadecimal digits")
    return sha256


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(data: bytes, sha256: str) -> bytes:
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise DamagedBlob(f"blob {sha256} is damaged: its {len(data)} bytes have sha256 {actual}")
    return data


@contextmanager
def _storage_errors(sha256: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no blob {sha256}") from error
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedBlob(f"blob {sha256} cannot be read from its disk: {error.strerror}") from error
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
