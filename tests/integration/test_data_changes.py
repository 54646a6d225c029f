"""A search keeps to the data that it began with, and so does every search on its supernet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from nas.core import registry
from nas.core.errors import DataChanged
from nas.core.events import DataRead, StageFinished, StageStarted, Warned, decode, encode, fold_all
from nas.core.spec import DataSpec
from nas.engine import run_search
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import engine, fakes
from tests.support.image_files import random_images, read_data


def write(path: Path, seed: int = 0) -> DataSpec:
    images = random_images(60, seed=seed)
    np.savez(path, images=images, labels=np.arange(60) % 2)
    return DataSpec(name="npz", path=str(path))


@pytest.mark.long
def test_a_later_attempt_on_other_images_is_refused_before_any_stage(tmp_path: Path) -> None:
    problem = engine.problem()
    resources = engine.Resources(engine.FolderBlobs(tmp_path), engine.RuleDevice(), lambda: 0.0)
    started, read, *_ = run_search(problem, engine.ONCE_FOR_ALL.stages(problem), resources, fold_all([]))
    assert isinstance(started, StageStarted)
    assert isinstance(read, DataRead)
    state = fold_all([decode(encode(read))])
    assert state.data == problem.data.account
    assert state.data.content_hash == problem.data.content_hash
    other = replace(problem, data=replace(problem.data, content_hash="f" * 64))
    with pytest.raises(DataChanged, match=r"expected those that were read when this search began .* restore the files"):
        next(run_search(other, engine.ONCE_FOR_ALL.stages(problem), resources, state))
    reused = replace(problem, supernet_blob="0" * 64, supernet_data="e" * 64)
    with pytest.raises(DataChanged, match="by the search of the supernet"):
        next(run_search(reused, engine.ONCE_FOR_ALL.stages(problem), resources, fold_all([])))


def test_a_supernet_of_unrecorded_data_is_warned_about(tmp_path: Path) -> None:
    problem = replace(engine.problem(), supernet_blob="0" * 64)
    resources = engine.Resources(engine.FolderBlobs(tmp_path), engine.RuleDevice(), lambda: 0.0)
    events = run_search(problem, engine.ONCE_FOR_ALL.stages(problem), resources, fold_all([]))
    warned = [e.message for e, _ in zip(events, range(3), strict=False) if isinstance(e, Warned)]
    assert warned == ["data: it is not recorded which images the reused supernet was trained on"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setitem(fakes.PLUGINS["nas.datasets"], "npz", registry.load_dataset("npz"))
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        yield opened


def test_extensions_forks_and_retries_need_the_same_data(store: Store, tmp_path: Path) -> None:
    data = write(tmp_path / "images.npz")
    dataset = read_data(data)
    api = TestClient(create_app(Settings(home=tmp_path), store), base_url="http://127.0.0.1")
    fakes.add_device(store, fakes.device_spec(data=data.model_dump()), space_id="tiny-0-2")
    spec = fakes.search_spec(data=data.model_dump())
    parent = api.post("/v1/searches", json=spec.model_dump(mode="json")).json()["id"]
    blob = store.blobs.put(b"a supernet")
    log = [StageStarted("train", 0, 1), DataRead(dataset.account), StageFinished("train", 1.0, {"supernet": blob})]
    lease = store.jobs.claim("tests", 100.0)
    assert lease is not None
    assert fakes.append(store, lease, log) == "continue"
    assert store.jobs.finish(lease, "failed", "an error")
    seen = api.get(f"/v1/searches/{parent}").json()
    assert seen["data"]["content_hash"] == dataset.content_hash
    assert seen["data"]["splits"]["test"]["images"] == 12

    def verbs() -> dict[str, tuple[int, str]]:
        answers = {
            "extend": api.post(f"/v1/searches/{parent}/extend", json={}),
            "fork": api.post(f"/v1/searches/{parent}/fork", json={}),
            "reuse": api.post("/v1/searches", json={**spec.model_dump(mode="json"), "supernet": parent}),
            "retry": api.post(f"/v1/searches/{parent}/retry"),
        }
        return {verb: (answer.status_code, answer.json().get("code", "")) for verb, answer in answers.items()}

    write(tmp_path / "images.npz", seed=1)
    assert set(verbs().values()) == {(422, "data_changed")}
    write(tmp_path / "images.npz")
    assert {verb: status for verb, (status, _) in verbs().items()} == {
        "extend": 201,
        "fork": 201,
        "reuse": 201,
        "retry": 200,
    }


def test_a_dry_run_shows_the_account_and_a_bad_data_set_is_refused_with_all_problems(
    store: Store, tmp_path: Path
) -> None:
    data = write(tmp_path / "images.npz")
    api = TestClient(create_app(Settings(home=tmp_path), store), base_url="http://127.0.0.1")
    fakes.add_device(store, fakes.device_spec(data=data.model_dump()), space_id="tiny-0-2")

    def dry_run(record: DataSpec) -> dict[str, object]:
        spec = fakes.search_spec(data=record.model_dump()).model_dump(mode="json")
        answer: dict[str, object] = api.post("/v1/searches?dry_run=true&measure=false", json=spec).json()
        return answer

    account = dry_run(data)["data"]
    assert isinstance(account, dict)
    assert (account["inputs"], account["class_names"]) == (60, ["0", "1"])
    relative = dry_run(DataSpec(name="npz", path="images.npz"))
    assert relative["code"] == "invalid_spec"
    assert "expected an absolute path" in str(relative["message"])
    images = np.zeros((8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.array([0, 0, 0, 0, 1, 1, 2, 3]))
    refused = dry_run(data)
    assert refused["code"] == "invalid_data"
    assert [f"class '{k}' has too few images" in str(refused["message"]) for k in range(4)] == [False, True, True, True]
