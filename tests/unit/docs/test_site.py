"""The documentation site: built offline from the code, and served with the pages of the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from nas.core.spec import SearchSpec
from server.api.app import create_app
from server.cli.app import COMMANDS
from server.cli.doctor import CHECKS
from server.help import add_help
from server.settings import Settings
from server.store.store import open_store
from tests.support.paths import ROOT

pytest.importorskip("mkdocs", reason="needs mkdocs-material, of the extra docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tools import docs_pages

    folder = tmp_path_factory.mktemp("site")
    docs_pages.build(folder)
    return folder


def test_reference_has_every_key_command_and_route(site: Path) -> None:
    spec = (site / "reference/spec/index.html").read_text()
    assert all(f"<code>{name}</code>" in spec for name in SearchSpec.model_fields)
    commands = (site / "reference/cli/index.html").read_text()
    assert all(f">nas {entry.name}" in commands for entry in COMMANDS)
    assert "--install-completion" in commands
    routes = (site / "reference/rest/index.html").read_text()
    assert "GET /v1/searches/{id}/recommendation" in routes


def test_every_check_of_the_doctor_has_a_remedy() -> None:
    remedies = re.findall(r"^\| (\w+) \| (.+) \|$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert [name for name, _ in remedies if name not in ("check", "message")] == list(CHECKS)


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert loaded == [], page.relative_to(site)


def test_help_is_served_or_says_how_to_build_it(site: Path, tmp_path: Path) -> None:
    app = FastAPI()
    add_help(app, site)
    help_pages = TestClient(app)
    assert "hwnas" in help_pages.get("/help/").text
    assert help_pages.get("/help/glossary/").status_code == 200
    missing = FastAPI()
    add_help(missing, tmp_path)
    answer = TestClient(missing).get("/help")
    assert answer.status_code == 404
    assert "make docs" in answer.text


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as store:
        yield TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1:8765")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_of_the_api_work_without_a_network(api: TestClient, path: str) -> None:
    pytest.importorskip("fastapi_offline")
    page = api.get(path)
    assert page.status_code == 200
    assert "https://" not in page.text
    assets = re.findall(r'(?:src|href)="(/_api_docs/[^"]+)"', page.text)
    assert assets
    for asset in assets:
        assert api.get(asset).status_code == 200
    assert "jsdelivr" not in page.headers["content-security-policy"]
