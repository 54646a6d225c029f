"""Garbage collection keeps what a search may need to go on."""

from __future__ import annotations

from pathlib import Path

from nas.core.events import Checkpoint
from server.store.garbage import SPARE_CHECKPOINTS
from server.store.store import open_store
from tests.support import fakes


def test_the_last_checkpoints_of_an_unfinished_search_are_kept(url: str, tmp_path: Path) -> None:
    with open_store(url, str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        fakes.add_search(store)
        lease = store.jobs.claim("worker", 100.0)
        assert lease is not None
        blobs = [store.blobs.put(f"step {step}".encode()) for step in range(5)]
        fakes.append(store, lease, [Checkpoint("train", step, blob) for step, blob in enumerate(blobs)])

        def stored() -> list[str]:
            return [blob for blob in blobs if blob in {info.sha256 for info in store.blobs.list()}]

        store.collect(grace_s=-1e12)
        assert stored() == blobs[-SPARE_CHECKPOINTS:]
        store.jobs.finish(lease, "succeeded")
        store.collect(grace_s=-1e12)
        assert stored() == blobs[-1:]
