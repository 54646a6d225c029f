"""Cascades of a search's exported models over REST, made by a worker."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nas.client import Client
from nas.core.access import Principal
from nas.core.cascade_spec import CascadeBounds
from nas.core.errors import Conflict, Forbidden, NotFound
from nas.core.events import Exported
from nas.core.spec import DataSpec, SearchSpec
from nas.training import samplers
from server.store.database import reading
from server.store.garbage import referenced_blobs
from tests.support import seeding
from tests.support.cascades import untrained_packages
from tests.support.engine import problem
from tests.support.intake import IntakeService, intake_service

ADA = Principal("ada", frozenset({"submit"}))
SPEC = SearchSpec(name="two sizes", data=DataSpec(params={"max_train": 160, "max_val": 60, "max_test": 50}))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IntakeService]:
    torch.set_num_threads(1)
    with intake_service(tmp_path_factory.mktemp("home")) as service:
        seeding.add_device(service.store, "this-machine")
        yield service


@pytest.fixture(scope="module")
def client(service: IntakeService) -> Client:
    return service.client()


@pytest.fixture(scope="module")
def search(service: IntakeService) -> str:
    """The id of a search that has exported its smallest and its largest network."""
    return exporting(service, 2)


def exporting(service: IntakeService, models: int) -> str:
    searched = problem(SPEC)
    ladder = samplers.ladder(searched.space)
    packages = untrained_packages(searched, (ladder[0], ladder[-1])[:models])
    attempt = seeding.claim_job(service.store, seeding.submit_search(service.store, SPEC, ADA))
    for arch, archive in packages.items():
        blob = service.store.blobs.put(archive)
        attempt.append(Exported(arch, f"{arch.id}.zip", blob, len(archive), "application/zip", {}))
    return attempt.finish()


def test_a_worker_makes_a_cascade_that_is_downloaded(
    service: IntakeService, client: Client, search: str, tmp_path: Path
) -> None:
    queued = client.make_cascade(search, CascadeBounds(within=100.0, members=2), key="once")
    assert (queued.status, queued.report, queued.file) == ("queued", None, None)
    assert client.make_cascade(search, CascadeBounds(within=100.0, members=2), key="once").id == queued.id
    service.work()
    made = client.cascade(search, queued.id)
    assert made.status == "succeeded", made.error
    assert made.report is not None
    assert made.file is not None
    exported = {artifact.arch for artifact in client.artifacts(search)}
    assert set(made.report.members) == exported
    assert made.report.measured.images == 50
    assert made.report.saved_percent == pytest.approx(
        100 * (1 - made.report.measured.mean_ms / made.report.single_measured.mean_ms)
    )
    path = client.download(made.file, tmp_path / "cascade.zip")
    with zipfile.ZipFile(path) as archive:
        assert {"run.py", "cascade.json", "member1.onnx", "member2.onnx"} <= set(archive.namelist())
    assert [c.id for c in client.cascades(search)] == [made.id]
    with reading(service.store.jobs._engine) as session:
        assert made.file.sha256 in referenced_blobs(session)
    client.delete_cascade(search, made.id)
    assert client.cascades(search) == []


def test_bounds_that_nothing_keeps_fail_the_cascade_and_say_so(
    service: IntakeService, client: Client, search: str
) -> None:
    cascade = client.make_cascade(search, CascadeBounds(expected_ms=1e-9))
    service.work()
    failed = client.cascade(search, cascade.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "within the bounds" in failed.error
    client.delete_cascade(search, cascade.id)


def test_a_search_takes_its_cascades_with_it(service: IntakeService, client: Client) -> None:
    search = exporting(service, 2)
    cascade = client.make_cascade(search)
    lease = service.store.jobs.claim("worker-1", 600.0)
    assert lease is not None
    assert lease.job_id == cascade.id
    client.delete(search)
    assert service.store.jobs.append(lease, 1, [], 600.0) == "lost"
    with pytest.raises(NotFound):
        client.cascade(search, cascade.id)


def test_what_makes_no_cascade_is_refused_before_a_worker_is_asked(
    service: IntakeService, client: Client, search: str
) -> None:
    one = exporting(service, 1)
    with pytest.raises(Conflict, match="at least two models, this one has 1"):
        client.make_cascade(one)
    with pytest.raises(NotFound):
        client.make_cascade("none-such")
    for wrong in ({"within": -1}, {"members": 4}, {"expected_ms": 0}, {"unknown": 1}):
        answer = service.app.post(f"/v1/searches/{search}/cascades", json=wrong, headers=client._headers)
        assert answer.status_code == 422, wrong
    with pytest.raises(Forbidden):
        service.client("ada", "read").make_cascade(search)
    assert client.cascades(one) == client.cascades(search) == []


def test_cascades_are_told_from_other_jobs(service: IntakeService, client: Client, search: str) -> None:
    cascade = client.make_cascade(search)
    with pytest.raises(NotFound):
        client.search(cascade.id)
    with pytest.raises(NotFound):
        client.cascade(exporting(service, 1), cascade.id)
    assert cascade.id not in {s.id for s in client.searches(parent=search).items}
    with pytest.raises(NotFound, match="not made yet"):
        client._request("GET", f"/v1/searches/{search}/cascades/{cascade.id}/file")
    client.delete_cascade(search, cascade.id)  # while it is queued
