"""``nas data``: adding, uploading, listing, checking and deleting data sets, against a service in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from nas.client import Client
from server.api.app import create_app
from server.cli import options
from server.cli.app import app
from server.settings import Settings
from server.store.store import open_store
from tests.support import fakes
from tests.support.image_files import colour_folder, encoded

RunData = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunData]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), fakes.Clock()) as store:
        served = TestClient(create_app(Settings(home=tmp_path / "home"), store), "http://127.0.0.1")
        monkeypatch.setattr(options, "Client", partial(Client, transport=served._transport))
        for name in ("HWNAS_URL", "HWNAS_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield lambda *words: CliRunner().invoke(app, ["data", *words])


@pytest.mark.long
def test_a_folder_is_added_listed_shown_checked_and_deleted(run: RunData, tmp_path: Path) -> None:
    colour_folder(tmp_path / "pets")
    assert "no data sets yet" in run("list").stdout
    added = run("add", "pets", str(tmp_path / "pets"), "--param", "image_size=8")
    assert added.exit_code == 0, added.stderr
    assert "24 images in 2 classes were read" in added.stdout
    assert [data["name"] for data in json.loads(run("list", "--json").stdout)] == ["pets"]
    assert json.loads(run("show", "pets", "--json").stdout)["data"]["params"] == {"image_size": 8}
    assert run("check", "pets").stdout.startswith("unchanged")
    (tmp_path / "pets" / "cat" / "000.png").write_bytes(encoded(Image.new("RGB", (8, 8), "red")))
    assert run("check", "pets").stdout.startswith("changed")
    (tmp_path / "pets" / "cat" / "000.png").write_bytes(b"no image")
    refused = run("check", "pets")
    assert refused.exit_code == 2
    assert "searches would refuse it" in refused.stdout
    assert run("delete", "pets", "--yes").stdout == "data set pets: deleted\n"
    gone = run("check", "pets")
    assert gone.exit_code == 2
    assert "no data set 'pets'" in gone.stderr


def test_a_folder_is_uploaded(run: RunData, tmp_path: Path) -> None:
    colour_folder(tmp_path / "pets")
    added = run("add", "pets", str(tmp_path / "pets"), "--upload", "--json")
    assert added.exit_code == 0, added.stderr
    record = json.loads(added.stdout)
    assert record["account"]["class_names"] == ["cat", "dog"]
    assert Path(record["data"]["path"]).is_relative_to(tmp_path / "home" / "uploads")
    missing = run("add", "others", str(tmp_path / "none.zip"))
    assert missing.exit_code == 2
    assert "cannot read" in missing.stderr
