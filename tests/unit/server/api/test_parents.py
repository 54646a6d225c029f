"""Specs whose space starts from a stored model: what is refused, and what a worker receives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from nas.core.access import LOCAL, Principal
from nas.core.errors import Conflict, InvalidSpec
from nas.core.events import StageFinished, StageStarted
from nas.core.jobs import DryRunPayload, OnboardingPayload, ParentBlobs, SearchPayload
from nas.core.model_spec import FileSource, ModelSpec, PreprocessingSpec
from nas.core.parent import ParentModel, Preprocessing
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.spec import SpaceSpec
from nas.models.stored import READ_STAGE, ModelSummary, StoredModel
from server.api import validate
from server.api.device_check import check_device
from server.store.store import Store, open_store
from tests.support import fakes

ADA = Principal("ada", frozenset({"submit", "device"}))
BOB = Principal("bob", frozenset({"submit", "device"}))
MINE = SpaceSpec(name="of_models", model="mine", params={}).model_dump()
SUMMARY = ModelSummary((1, 8, 8), ((10,),), 40, 2, 1, True)
WEIGHTS = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


class SpaceOfModel(fakes.TinySpace):
    """The tiny space, which keeps the model that it starts from."""

    def __init__(self, params: Mapping[str, Any], shape: ImageShape, parent: ParentModel) -> None:
        super().__init__(params, shape)
        self.parent = parent


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    of_models = SearchSpaceType("of_models", "For this test.", build_from=SpaceOfModel)
    monkeypatch.setitem(fakes.PLUGINS["nas.search_spaces"], "of_models", of_models)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        yield opened


def submit_model(store: Store, name: str = "mine", by: Principal = ADA) -> None:
    source = FileSource(blob="0" * 64, filename="mine.pt2")
    spec = ModelSpec(name=name, source=source, preprocessing=PreprocessingSpec(mean=(30.0,), std=(60.0,)))
    store.jobs.submit(spec, None, stages=(READ_STAGE,), by=by)


def add_model(store: Store, summary: ModelSummary = SUMMARY, name: str = "mine") -> ParentBlobs:
    """A model of ada's as it is after its intake."""
    submit_model(store, name)
    graph, report = store.blobs.put(b"{}"), store.blobs.put(b"{}")
    stored = StoredModel(graph, store.blobs.put(safetensors.numpy.save(WEIGHTS)), report, summary)
    fakes.run_log(store, [StageStarted(READ_STAGE, 0, 1), StageFinished(READ_STAGE, 0.5, stored.as_json())])
    return ParentBlobs(name, stored.graph, stored.weights, Preprocessing((30.0,), (60.0,)))


def test_the_space_of_a_search_starts_from_the_model(store: Store) -> None:
    add_model(store)
    report = validate.examine(fakes.search_spec(space=MINE), store, ADA)
    assert isinstance(report.space, SpaceOfModel)
    parent = report.space.parent
    assert (parent.name, parent.graph_json) == ("mine", b"{}")
    assert parent.preprocessing == Preprocessing((30.0,), (60.0,))
    np.testing.assert_array_equal(parent.load_weights()["head.weight"], WEIGHTS["head.weight"])
    assert report.problems == ()
    spec = fakes.search_spec(space=MINE)
    assert isinstance(validate.space_of(spec.space, spec.data, spec.precision, store), SpaceOfModel)


def test_a_worker_receives_the_model(store: Store) -> None:
    parent = add_model(store)
    search, device = fakes.search_spec(space=MINE), fakes.device_spec(space=MINE, name="board")
    for spec, dry_run, payload_class in (
        (search, False, SearchPayload),
        (search, True, DryRunPayload),
        (device, False, OnboardingPayload),
    ):
        job = store.jobs.submit(spec, None, dry_run=dry_run, space_id="tiny-0-10", by=ADA)
        lease = store.jobs.claim("tests", 100.0)
        assert lease is not None
        assert lease.job_id == job
        assert isinstance(lease.payload, payload_class)
        resolved = lease.payload.search if isinstance(lease.payload, DryRunPayload) else lease.payload
        assert isinstance(resolved, SearchPayload | OnboardingPayload)
        assert resolved.parent == parent


@pytest.mark.parametrize(
    ("summary", "reason"),
    [
        (ModelSummary((3, 8, 8), ((10,),), 40, 2, 1, True), "takes images of 3 channels, the data have 1"),
        (ModelSummary((1, 8, 8), ((5,),), 40, 2, 1, True), "one output for each of the 10 classes .* gives 5"),
        (ModelSummary((1, 8, 8), ((10,), (4, 8)), 40, 2, 1, True), "'mine' gives 10, 4x8"),
        (ModelSummary((1, 8), ((10,),), 40, 2, 1, False), r"one input of shape \(images, channels, height, width\)"),
        (ModelSummary(None, ((10,),), 40, 2, 1, False), "has several inputs"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(store: Store, summary: ModelSummary, reason: str) -> None:
    add_model(store, summary)
    with pytest.raises(InvalidSpec, match=rf"space\.model: .*{reason}"):
        validate.examine(fakes.search_spec(space=MINE), store, ADA)
    with pytest.raises(InvalidSpec, match=rf"space\.model: .*{reason}"):
        check_device(fakes.device_spec(space=MINE, name="board"), store, ADA)


def test_a_model_that_is_missing_or_another_owners_is_refused(store: Store) -> None:
    with pytest.raises(InvalidSpec, match=r"space\.model: no model 'mine'. To add one, run: nas models add mine FILE"):
        validate.examine(fakes.search_spec(space=MINE), store, ADA)
    add_model(store)
    with pytest.raises(InvalidSpec, match=r"space\.model: no model 'mine'"):
        validate.examine(fakes.search_spec(space=MINE), store, BOB)
    validate.examine(fakes.search_spec(space=MINE), store, LOCAL)  # an administrator sees all models


def test_a_model_that_was_not_read_is_refused(store: Store) -> None:
    submit_model(store)
    with pytest.raises(InvalidSpec, match=r"model 'mine' was not read yet, its intake is queued"):
        validate.examine(fakes.search_spec(space=MINE), store, ADA)
    lease = store.jobs.claim("tests", 100.0)
    assert lease is not None
    store.jobs.finish(lease, "failed", "mine.pt2: expected a known operator")
    with pytest.raises(InvalidSpec, match=r"its intake is failed: mine\.pt2: expected a known operator"):
        validate.examine(fakes.search_spec(space=MINE), store, ADA)


def test_a_model_that_is_used_cannot_be_deleted(store: Store) -> None:
    add_model(store)
    search = store.jobs.submit(fakes.search_spec(space=MINE), None, by=ADA)
    store.jobs.submit(fakes.device_spec(space=MINE, name="board"), None, by=ADA)
    with pytest.raises(Conflict, match=r"need it\. To free it: .*nas devices delete board") as refused:
        store.user_models.delete("mine", ADA)
    assert f"search {search}" in str(refused.value)
    store.jobs.cancel(search, ADA)
    store.jobs.delete(search, ADA)
    with pytest.raises(Conflict, match=r"since device board needs it\. To free it: nas devices delete board"):
        store.user_models.delete("mine", ADA)


def test_a_search_whose_model_is_gone_fails_when_it_is_claimed(store: Store) -> None:
    search = store.jobs.submit(fakes.search_spec(space=MINE), None, space_id="tiny-0-10", by=ADA)
    assert store.jobs.claim("tests", 100.0) is None
    assert store.queries.search(search).error == (
        "space.model: no model 'mine'. To add one, run: nas models add mine FILE"
    )
