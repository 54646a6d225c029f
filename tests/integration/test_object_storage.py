"""Blobs in an object store that speaks S3, and garbage collection of unreferenced blobs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.blobs import FolderBlobs, RemoteBlobs, open_blobs
from nas.core.errors import NotFound, StorageError
from nas.core.events import Checkpoint
from server.store.store import Store, open_store
from tests.support import fakes

DAY = 86_400.0


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    import s3fs

    s3fs.S3FileSystem().mkdir("models")
    yield "s3://models/hwnas"
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FolderBlobs | RemoteBlobs:
    url = str(tmp_path) if request.param == "folder" else request.getfixturevalue("bucket")
    return open_blobs(url)


def test_blob_roundtrip_list_delete(blobs: FolderBlobs | RemoteBlobs) -> None:
    sha256 = blobs.put(b"weights")
    assert blobs.put(b"weights") == sha256
    assert blobs.get(sha256) == blobs.open(sha256).read() == b"weights"
    [blob] = blobs.list()
    assert (blob.sha256, blob.size_bytes) == (sha256, 7)
    assert blob.stored_at > 1.7e9
    blobs.delete(sha256)
    blobs.delete(sha256)
    assert list(blobs.list()) == []
    with pytest.raises(NotFound):
        blobs.get(sha256)


def test_damaged_object_raises_storage_error(bucket: str) -> None:
    blobs = open_blobs(bucket)
    assert isinstance(blobs, RemoteBlobs)
    sha256 = blobs.put(b"weights")
    blobs.fs.pipe_file(blobs._path(sha256), b"wei")
    with pytest.raises(StorageError, match="damaged"):
        blobs.get(sha256)
    assert blobs.put(b"weights") == sha256
    assert blobs.get(sha256) == b"weights"
    blobs.delete(sha256)


def test_concurrent_writers_of_one_blob(blobs: FolderBlobs | RemoteBlobs) -> None:
    data = bytes(range(256)) * 4000
    hashes: list[str] = []
    threads = [threading.Thread(target=lambda: hashes.append(blobs.put(data))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hashes) == 6
    assert len(set(hashes)) == 1
    assert blobs.get(hashes[0]) == data
    blobs.delete(hashes[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    import time

    clock = fakes.Clock(time.time())
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        yield opened


def test_gc_removes_old_unreferenced_blobs(store: Store, tmp_path: Path) -> None:
    search = fakes.add_search(store)
    lease = store.jobs.claim("w", 1e6)
    assert lease is not None
    first, *last_three, model = (store.blobs.put(data) for data in (b"1", b"2", b"3", b"4", b"model"))
    checkpoints = [Checkpoint("train", step, blob) for step, blob in enumerate((first, *last_three))]
    fakes.append(store, lease, checkpoints, 1e6)
    orphan = store.blobs.put(b"orphan")
    before = {blob.sha256 for blob in store.blobs.list()}
    assert store.collect().removed == 0  # all of them are young
    assert store.collect(grace_s=-10.0, dry_run=True).removed == 3
    assert {blob.sha256 for blob in store.blobs.list()} == before
    done = store.collect(grace_s=-10.0)
    assert (done.removed, done.removed_bytes) == (3, len(b"1orphanmodel"))
    assert {blob.sha256 for blob in store.blobs.list()} == before - {first, orphan, model}
    store.jobs.cancel(search)
    store.jobs.delete(search)
    assert store.collect(grace_s=-10.0).removed == len(last_three)
    assert len(list(store.blobs.list())) == 1  # the predictor of the device


def test_storing_a_blob_again_restarts_its_grace_period(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    sha256 = blobs.put(b"x")
    path = tmp_path / sha256[:2] / sha256
    os.utime(path, (1.0, 1.0))
    blobs.put(b"x")
    assert path.stat().st_mtime > 1e9
