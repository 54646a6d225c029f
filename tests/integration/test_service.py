"""The client against the service over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.client import Client
from nas.core.errors import InfeasibleBound, NotFound
from nas.schemas.searches import ExtendBody
from server.api.app import create_app
from server.settings import Settings
from server.store.store import open_store
from tests.support import fakes
from tests.support.serving import serving


def test_a_search_from_submission_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.use_plugins(monkeypatch)
    with (
        open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as store,
        serving(create_app(Settings(home=tmp_path), store)) as url,
        Client(url) as nas,
    ):
        nas.add_device(fakes.device_spec())
        fakes.run_log(store, fakes.device_log(store.blobs.put(fakes.predictor_bytes())))
        assert nas.dry_run(fakes.search_spec()).feasible
        search = nas.submit(fakes.search_spec(), key="once")
        assert nas.submit(fakes.search_spec(), key="once").id == search.id

        lease = store.jobs.claim("worker", 60.0)
        assert lease is not None
        log = fakes.records(fakes.search_log(store.blobs.put(b"abc")))
        batches = iter([*[log[i : i + 5] for i in range(5, len(log), 5)], None])
        fakes.append(store, lease, log[:5], 60.0)
        written = 2 + 5
        kinds = []
        for event in nas.watch(search.id):  # each event seen makes the worker go on: it is a live stream
            kinds.append(event.seq)
            if event.seq == written and (batch := next(batches)) is not None:
                fakes.append(store, lease, batch, 60.0)
                written += len(batch)
            elif event.seq == written:
                store.jobs.finish(lease, "succeeded")
        assert kinds == list(range(1, len(log) + 4))  # queued, running, the worker's, succeeded

        assert nas.search(search.id).status == "succeeded"
        assert nas.front(search.id).final
        assert nas.candidates(search.id, origin="search").total == 3
        file = nas.artifacts(search.id)[0]
        assert nas.download(file, tmp_path / "model").read_bytes() == b"abc"
        assert nas.extend(search.id, ExtendBody(seed=1)).parent == search.id
        assert [s.id for s in nas.searches(status="succeeded").items] == [search.id]
        with pytest.raises(InfeasibleBound, match="lowest reachable"):
            nas.extend(search.id, ExtendBody(bounds={"latency": 0.1}))
        with pytest.raises(NotFound):
            nas.device("none")
        assert nas.health().status == "degraded"
