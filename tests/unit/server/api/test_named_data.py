"""Data sets with names: uploads, checks, what specs make of a name, and owners."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from nas.core.access import LOCAL, Principal
from nas.core.errors import InvalidData, InvalidSpec, StorageError, UnknownName
from nas.core.spec import DataSpec
from nas.schemas.named_data import DataCheckSchema, DataFileSchema, NamedDataSchema
from server.api import uploads
from server.api.app import create_app
from server.api.named_data import resolve
from server.api.uploads import delete_unused, store_upload
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.image_files import colour_folder, encoded


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        yield opened


@pytest.fixture
def app(store: Store, tmp_path: Path) -> FastAPI:
    return create_app(Settings(home=tmp_path / "home"), store)


@pytest.fixture
def api(app: FastAPI) -> TestClient:
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def zipped(folder: Path, **members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def add(api: TestClient, name: str, data: dict[str, Any] | DataSpec) -> Any:
    record = data.model_dump(mode="json") if isinstance(data, DataSpec) else data
    return api.post("/v1/data", json={"name": name, "data": record})


def refusal(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    message: str = answer.json()["message"]
    return message


def test_a_zip_of_folders_becomes_a_data_set_with_account_and_picture(api: TestClient, tmp_path: Path) -> None:
    colour_folder(tmp_path / "images")
    answer = api.post("/v1/data-files?filename=pets.zip", content=zipped(tmp_path / "images"))
    uploaded = DataFileSchema.model_validate(answer.json())
    assert (answer.status_code, uploaded.kind, uploaded.files) == (201, "folder", 24)
    answer = add(api, "pets", {"name": uploaded.kind, "path": uploaded.path})
    added = NamedDataSchema.model_validate(answer.json())
    assert answer.status_code == 201
    assert added.account is not None
    assert added.account.class_names == ("cat", "dog")
    assert [data["name"] for data in api.get("/v1/data").json()] == ["pets"]
    assert NamedDataSchema.model_validate(api.get("/v1/data/pets").json()) == added
    picture = api.get("/v1/data/pets/samples")
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).height == 2 * 52
    assert api.delete("/v1/data/pets").status_code == 204
    assert not Path(uploaded.path).exists()
    assert "the data sets: none" in refusal(api.get("/v1/data/pets"), 404)


def test_an_archive_of_arrays_is_kept_as_it_is(api: TestClient) -> None:
    content = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(content, images=images, labels=np.arange(20) % 2)
    uploaded = DataFileSchema.model_validate(
        api.post("/v1/data-files?filename=a.npz", content=content.getvalue()).json()
    )
    assert uploaded.kind == "npz"
    assert add(api, "arrays", {"name": "npz", "path": uploaded.path}).json()["account"]["inputs"] == 20


def test_a_name_stands_for_kind_path_and_parameters(api: TestClient, store: Store, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "images").model_copy(update={"params": {"image_size": 16, "flip": False}})
    assert add(api, "pets", spec).status_code == 201
    named = DataSpec(name="pets", seed=3, params={"image_size": 8})
    expected = spec.model_copy(update={"seed": 3, "params": {"image_size": 8, "flip": False}})
    assert resolve(named, store, LOCAL) == expected
    assert resolve(DataSpec(), store, LOCAL) == DataSpec()
    with pytest.raises(InvalidSpec, match="has its own path"):
        resolve(DataSpec(name="pets", path="/elsewhere"), store, LOCAL)
    with pytest.raises(UnknownName, match="Did you mean 'pets'"):
        resolve(DataSpec(name="pet"), store, LOCAL)


def test_a_submission_holds_what_the_name_stood_for(api: TestClient, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "images")
    add(api, "pets", spec)
    device = {"name": "figures", "source": "roofline", "data": {"name": "pets"}}
    device["roofline"] = {"flops_per_s": 1e9, "bytes_per_s": 1e9}
    device["space"] = {"name": "mobilenet_v3", "params": {"preset": "digits"}}
    answer = api.post("/v1/devices", json=device)
    assert answer.status_code == 201, answer.text
    stored = api.get("/v1/onboardings").json()["items"][0]["spec"]["data"]
    assert DataSpec.model_validate(stored) == spec
    assert "jobs" not in refusal(api.delete("/v1/data/pets"), 409)  # an onboarding reads it
    device["data"] = {"name": "petz"}
    assert "Did you mean 'pets'" in refusal(api.post("/v1/devices", json={**device, "name": "other"}), 422)


def test_a_check_notices_changed_and_refused_data(api: TestClient, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "images")
    add(api, "pets", spec)
    assert DataCheckSchema.model_validate(api.post("/v1/data/pets/check").json()).changed is False
    (tmp_path / "images" / "cat" / "000.png").write_bytes(encoded(Image.new("RGB", (8, 8), "red")))
    assert DataCheckSchema.model_validate(api.post("/v1/data/pets/check").json()).changed is True
    (tmp_path / "images" / "cat" / "000.png").write_bytes(b"no image")
    result = DataCheckSchema.model_validate(api.post("/v1/data/pets/check").json())
    assert "000.png: cannot be decoded" in result.problems[0]
    assert result.data.account is not None  # as of the last check that succeeded


def test_bad_data_and_taken_names_are_refused(api: TestClient, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "images")
    assert "is a kind of data" in refusal(add(api, "folder", spec), 422)
    assert "expected an absolute path" in refusal(add(api, "pets", {"name": "folder", "path": "images"}), 422)
    assert "does not exist" in refusal(add(api, "pets", {"name": "folder", "path": "/nothing/here"}), 422)
    assert "Did you mean 'folder'" in refusal(add(api, "pets", {"name": "foldr", "path": spec.path}), 422)
    assert add(api, "pets", spec).status_code == 201
    assert "is taken" in refusal(add(api, "pets", spec), 409)


def test_owners_do_not_see_each_others_data(api: TestClient, store: Store, tmp_path: Path) -> None:
    add(api, "pets", colour_folder(tmp_path / "images"))
    stranger = Principal("eve", frozenset({"submit"}))
    assert store.queries.named_data_sets(stranger) == []
    with pytest.raises(UnknownName, match="unknown data set 'pets'"):
        resolve(DataSpec(name="pets"), store, stranger)


@pytest.mark.parametrize(
    ("filename", "content", "message"),
    [
        ("data.tar", b"abc", "expected a file .zip"),
        ("data.zip", b"abc", "got a corrupt one or none"),
        ("data.zip", b"", "got an empty body"),
    ],
)
def test_an_upload_of_another_kind_is_refused(api: TestClient, filename: str, content: bytes, message: str) -> None:
    answer = api.post("/v1/data-files", params={"filename": filename}, content=content)
    assert message in refusal(answer, 422)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/outside.png", "a/../../outside.png", "C:/outside.png"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(zipped(tmp_path / "none", **{name: b"abc"}))
    with pytest.raises(InvalidData, match="inside of the zip file's folder"):
        store_upload(file, "a.zip", tmp_path / "uploads")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_links_bombs_and_empty_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    with zipfile.ZipFile(file, "w") as archive:
        link = zipfile.ZipInfo("cat/000.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidData, match="got a link"):
        store_upload(file, "a.zip", tmp_path / "uploads")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/000.png", bytes(32 * 2**20))
    with pytest.raises(InvalidData, match="times its packed size"):
        store_upload(file, "a.zip", tmp_path / "uploads")
    file.write_bytes(zipped(tmp_path / "none"))
    with pytest.raises(InvalidData, match="got an empty zip file"):
        store_upload(file, "a.zip", tmp_path / "uploads")
    monkeypatch.setattr(uploads, "MAX_FILES", 1)
    file.write_bytes(zipped(tmp_path / "none", a=b"1", b=b"2"))
    with pytest.raises(InvalidData, match="expected at most 1 files"):
        store_upload(file, "a.zip", tmp_path / "uploads")


def test_a_full_disk_leaves_no_half_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colour_folder(tmp_path / "images")
    file = tmp_path / "file"
    file.write_bytes(zipped(tmp_path / "images"))

    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploads.shutil, "copyfileobj", fill)
    with pytest.raises(StorageError, match="the disk is full"):
        store_upload(file, "a.zip", tmp_path / "uploads")
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_without_a_name_is_deleted_after_a_day(tmp_path: Path) -> None:
    colour_folder(tmp_path / "images")
    file = tmp_path / "file"
    file.write_bytes(zipped(tmp_path / "images"))
    uploaded = store_upload(file, "a.zip", tmp_path / "uploads")
    assert store_upload(file, "a.zip", tmp_path / "uploads") == uploaded
    later = Path(uploaded.path).stat().st_mtime + 25 * 3600
    delete_unused(tmp_path / "uploads", lambda path: path == uploaded.path, later)
    assert Path(uploaded.path).exists()
    delete_unused(tmp_path / "uploads", lambda _: False, later)
    assert not Path(uploaded.path).exists()
