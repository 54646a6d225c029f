"""Blob store: stored bytes come back intact or an error is raised."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from nas.blobs import FolderBlobs, RemoteBlobs, open_blobs
from nas.core.errors import InvalidInput, NotFound, StorageError
from nas.core.ports import BlobStore


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "blobs") if request.param == "folder" else "memory://blobs"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def blobs(url: str) -> BlobStore:
    return open_blobs(url)


def test_url_selects_folder_or_remote(tmp_path: Path) -> None:
    assert isinstance(open_blobs(str(tmp_path)), FolderBlobs)
    assert isinstance(open_blobs(f"file://{tmp_path}"), FolderBlobs)
    assert isinstance(open_blobs("memory://x"), RemoteBlobs)
    with pytest.raises(InvalidInput, match="nonsense"):
        open_blobs("nonsense://x")


@pytest.mark.parametrize("data", [b"", b"abc", os.urandom(100_000)])
def test_blob_roundtrip(blobs: BlobStore, url: str, data: bytes) -> None:
    sha256 = blobs.put(data)
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert blobs.put(data) == sha256
    assert open_blobs(url).get(sha256) == data
    with blobs.open(sha256) as file:
        assert file.read() == data


@pytest.mark.parametrize("data", [b"", b"abc", os.urandom(3_000_000)])
def test_a_file_is_stored_as_its_bytes_are(
    blobs: FolderBlobs | RemoteBlobs, url: str, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(data)
    sha256 = blobs.put_file(tmp_path / "file")
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert blobs.put_file(tmp_path / "file") == sha256
    reopened = open_blobs(url)
    assert reopened.has(sha256)
    assert not reopened.has("0" * 64)
    assert reopened.get(sha256) == data


def test_a_damaged_blob_is_stored_again_from_a_file(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    (tmp_path / "file").write_bytes(b"abc")
    sha256 = blobs.put_file(tmp_path / "file")
    (blobs.root / sha256[:2] / sha256).write_bytes(b"abX")
    assert blobs.put_file(tmp_path / "file") == sha256
    assert blobs.get(sha256) == b"abc"


@pytest.mark.parametrize("name", ["0" * 64, "0" * 63, "../../etc/passwd", "A" * 64, ""])
def test_unknown_blob_raises_not_found(blobs: BlobStore, name: str) -> None:
    with pytest.raises(NotFound):
        blobs.get(name)


def test_damaged_blob_raises_and_can_be_stored_again(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    sha256 = blobs.put(b"abc")
    path = tmp_path / sha256[:2] / sha256
    for damage in (b"abX", b"ab", b""):
        path.write_bytes(damage)
        with pytest.raises(StorageError, match="damaged"):
            blobs.get(sha256)
    blobs.put(b"abc")
    assert blobs.get(sha256) == b"abc"


def test_damaged_remote_blob_raises() -> None:
    blobs = open_blobs("memory://damaged")
    sha256 = blobs.put(b"abc")
    fsspec.filesystem("memory").pipe_file(f"/damaged/{sha256[:2]}/{sha256}", b"abX")
    with pytest.raises(StorageError, match="damaged"):
        blobs.get(sha256)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")])
def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    def fails(_fd: int) -> None:
        raise OSError(code, os.strerror(code))

    blobs = FolderBlobs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(StorageError, match=words):
            blobs.put(b"abc")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    blobs.put(b"abc")


def test_concurrent_writers_leave_one_file(tmp_path: Path) -> None:
    data = os.urandom(50_000)
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: FolderBlobs(tmp_path).put(data), range(32)))
    assert names == {hashlib.sha256(data).hexdigest()}
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == list(names)
