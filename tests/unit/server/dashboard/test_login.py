"""The login: what its cookie holds, when it ends, and where it sends a reader afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nas.client import Client
from nas.core.access import LOCAL
from server.api.app import create_app
from server.dashboard.login import COOKIE, Sessions, _local, add_routes
from server.settings import Settings
from server.store.store import Store, open_store


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/%2Fevil.example",
        "%2F%2Fevil.example",
        "/%5Cevil.example",
        "/%09/evil.example",
        "/%0d%0aLocation: //evil.example",
        "https://evil.example",
        "https:%2F%2Fevil.example",
        "",
    ],
)
def test_login_leads_to_no_other_service(target: str) -> None:
    assert _local(target) == "/"


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/devices", "/devices"),
        ("/devices/a%20board", "/devices/a%20board"),
        ("/devices/a board", "/devices/a%20board"),
        ("/%252Fevil.example", "/%252Fevil.example"),  # one segment, with a slash in its name
    ],
)
def test_login_leads_to_pages_of_this_service(target: str, location: str) -> None:
    assert _local(target) == location


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs")) as opened:
        yield opened


@pytest.fixture
def browser(store: Store, tmp_path: Path) -> TestClient:
    """A browser on a service that requires tokens, with the routes of the login."""
    app = create_app(Settings(home=tmp_path, require_tokens=True), store)
    service = Client("http://127.0.0.1", transport=TestClient(app, "http://127.0.0.1")._transport)
    add_routes(app, Sessions(service, closed=True))
    return TestClient(app, "http://127.0.0.1", follow_redirects=False)


def log_in(browser: TestClient, token: str, target: str = "/") -> str:
    """Log in; return the secret that the cookie holds."""
    answer = browser.post("/login", data={"token": token, "next": target})
    assert answer.status_code == 303, answer.text
    return answer.cookies[COOKIE]


def test_logout_ends_the_session_and_not_the_token(browser: TestClient, store: Store) -> None:
    _, token = store.tokens.create("ada", "laptop", ["read"], None, LOCAL)
    secret = log_in(browser, token)
    assert token.rsplit("_", 1)[1] not in secret
    headers = {"Authorization": f"Bearer {secret}"}
    assert browser.get("/v1/me", headers=headers).json()["owner"] == "ada"
    browser.cookies.set(COOKIE, secret)
    assert browser.get("/logout").headers["location"] == "/login"
    assert browser.get("/v1/me", headers=headers).status_code == 401
    assert browser.get("/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert browser.get("/logout").status_code == 303  # once more, in another tab


def test_login_redirects_within_the_service(browser: TestClient, store: Store) -> None:
    _, token = store.tokens.create("ada", "laptop", ["read"], None, LOCAL)
    for target, location in (("/%2Fevil.example", "/"), ("/devices/pi", "/devices/pi")):
        answer = browser.post("/login", data={"token": token, "next": target})
        assert answer.headers["location"] == location


def test_login_with_an_invalid_token_is_refused(browser: TestClient, store: Store) -> None:
    _, agent = store.tokens.create("ada", "board", ["agent"], None, LOCAL, "pi")
    for token in ("", "hwnas_0_0", agent):
        answer = browser.post("/login", data={"token": token})
        assert answer.status_code == 401
        assert COOKIE not in answer.cookies
