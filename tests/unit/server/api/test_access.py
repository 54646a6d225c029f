"""Who is let in to what: every route by no token, bad tokens, every scope, and somebody else's."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from nas.core.access import LOCAL, SCOPES, Scope
from nas.core.errors import InvalidInput, NotFound, Unauthorised
from nas.core.log_context import job_context
from nas.schemas.service import ReadinessSchema
from server import logs
from server.api import access, sse
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes

DAY = 86_400.0
PUBLIC = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/agent/"), ("GET", "/agent/{file}")}


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        yield opened


def service(store: Store, tmp_path: Path, **changes: Any) -> TestClient:
    app = create_app(Settings(home=tmp_path, **changes), store)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def closed(store: Store, tmp_path: Path) -> TestClient:
    return service(store, tmp_path, require_tokens=True)


def token(store: Store, owner: str, *scopes: Scope, expires_at: float | None = None) -> dict[str, str]:
    device = "n" if scopes == ("agent",) else None  # as ``filled`` fills in names
    _, text = store.tokens.create(owner, "test", scopes, expires_at, LOCAL, device)
    return {"Authorization": f"Bearer {text}"}


def operations(api: TestClient) -> list[tuple[str, str]]:
    described = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in described.items() for method in methods]


def filled(path: str, search: str) -> str:
    """The path with every parameter given; ``search`` where a search is named."""
    owner = "/searches/{id}" in path
    return (
        path.replace("{id}", search if owner else "x")
        .replace("{arch}", "a")
        .replace("{name}", "n")
        .replace("{owner}", "o")
    )


def test_every_route_has_a_scope_and_every_scope_a_route(closed: TestClient) -> None:
    app: Any = closed.app
    described = {(m, p.removeprefix("/v1")) for m, p in operations(closed) if p.startswith("/v1/")}
    assert described == set(access.REQUIRED_SCOPES)
    outside = {(m, p) for m, p in operations(closed) if not p.startswith("/v1/")}
    assert outside == PUBLIC
    hidden = {r.path for r in app.routes if isinstance(r, APIRoute)} - {p for _, p in operations(closed)}
    assert hidden <= {"/metrics"}


def test_every_route_rejects_invalid_tokens(closed: TestClient, store: Store, clock: fakes.Clock) -> None:
    search = fakes.add_search(store)
    expired = token(store, "local", "admin", expires_at=clock() + DAY)
    revoked = token(store, "local", "admin")
    store.tokens.revoke(revoked["Authorization"].split("_")[1], LOCAL)
    clock.pass_(DAY + 1)
    forged = {"Authorization": revoked["Authorization"][:-3] + "abc"}
    for method, path in operations(closed):
        if (method, path) in PUBLIC:
            continue
        for headers in ({}, expired, revoked, forged, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer x"}):
            answer = closed.request(method, filled(path, search), headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.json()["code"] == "unauthorised"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert store.queries.search(search).status == "queued"


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_allows_its_routes_only(closed: TestClient, store: Store, scope: Scope) -> None:
    headers = token(store, "ada", scope)
    for (method, path), needed in access.REQUIRED_SCOPES.items():
        answer = closed.request(method, filled(f"/v1{path}", "nothing"), headers=headers)
        implied = {"read": ("read", "submit", "device"), "agent": ("agent", "device")}
        allowed = scope in (*implied.get(needed, (needed,)), "admin")
        assert (answer.status_code == 403) != allowed, (method, path, answer.text)
        if not allowed:
            assert answer.json()["code"] == "forbidden"


def test_searches_of_other_owners_are_hidden_except_from_administrators(closed: TestClient, store: Store) -> None:
    mine, token_of_bob = token(store, "ada", "read", "submit"), token(store, "bob", "read", "submit")
    answer = closed.post("/v1/searches", json=fakes.search_spec().model_dump(mode="json"), headers=mine)
    search = answer.json()["id"]
    assert answer.json()["owner"] == "ada"
    for (method, path), needed in access.REQUIRED_SCOPES.items():
        if "/searches/{id}" in path and needed != "admin":
            body = {"priority": 1} if path.endswith("priority") else {}
            answer = closed.request(method, filled(f"/v1{path}", search), headers=token_of_bob, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, path)
            assert answer.json()["message"] == f"no search {search!r}"
    assert store.queries.search(search).status == "queued"
    boss = token(store, "root", "admin")
    for caller, visible in ((mine, [search]), (token_of_bob, []), (boss, [search])):
        assert [s["id"] for s in closed.get("/v1/searches?owner=ada", headers=caller).json()["items"]] == visible
    assert closed.post(f"/v1/searches/{search}/cancel", headers=boss).json()["status"] == "cancelled"
    actions = [(r.owner, r.action, r.target) for r in store.audit.page(2).items]
    assert actions == [("root", "cancel search", search), ("local", "create token", actions[1][2])]
    reused = fakes.search_spec(supernet=search).model_dump(mode="json")
    answer = closed.post("/v1/searches", json=reused, headers=token_of_bob)
    assert (answer.status_code, answer.json()["message"]) == (422, f"supernet: no search {search!r}")


def test_token_of_an_agent_is_for_one_device(closed: TestClient, store: Store) -> None:
    agent = token(store, "ada", "agent")
    answer = closed.post("/v1/agents/n/claim", headers=agent, json={"instance": "i"})
    assert answer.json()["code"] == "not_found"  # it has not registered yet
    answer = closed.post("/v1/agents/other/claim", headers=agent, json={"instance": "i"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "'n'" in answer.json()["message"]
    search = fakes.add_search(store)
    for path in ("/searches", f"/searches/{search}", f"/searches/{search}/artifacts", "/devices", "/agents", "/me"):
        assert closed.get(f"/v1{path}", headers=agent).status_code == 403, path
    for scopes, device in ((["agent"], None), (["agent", "read"], "n"), (["device"], "n")):
        body = {"owner": "ada", "name": "x", "scopes": scopes, "device": device}
        answer = closed.post("/v1/tokens", headers=token(store, "root", "admin"), json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), body
        assert "expected the scope 'agent' alone" in answer.json()["message"]


def session(api: TestClient, headers: dict[str, str]) -> dict[str, str]:
    answer = api.post("/v1/sessions", headers=headers)
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['secret']}"}


def test_session_authenticates_until_it_ends(closed: TestClient, store: Store, clock: fakes.Clock) -> None:
    ada = token(store, "ada", "submit")
    first, second = session(closed, ada), session(closed, ada)
    assert first != second
    me = closed.get("/v1/me", headers=first).json()
    assert (me["owner"], me["scopes"]) == ("ada", ["submit"])
    assert closed.delete("/v1/sessions/current", headers=first).status_code == 204
    assert closed.get("/v1/me", headers=first).status_code == 401
    for headers in (second, ada):  # logging out elsewhere ends neither
        assert closed.get("/v1/me", headers=headers).status_code == 200
    clock.pass_(31 * DAY)
    assert closed.get("/v1/me", headers=second).status_code == 401
    assert closed.get("/v1/me", headers=ada).status_code == 200


def test_session_ends_with_its_token(closed: TestClient, store: Store, clock: fakes.Clock) -> None:
    revoked, expiring = token(store, "ada", "read"), token(store, "ada", "read", expires_at=clock() + DAY)
    one, two = session(closed, revoked), session(closed, expiring)
    store.tokens.revoke(revoked["Authorization"].split("_")[1], LOCAL)
    assert closed.get("/v1/me", headers=one).status_code == 401
    clock.pass_(DAY)
    assert closed.get("/v1/me", headers=two).status_code == 401


def test_session_is_opened_with_a_token_only(closed: TestClient, store: Store, tmp_path: Path) -> None:
    opened = session(closed, token(store, "ada", "read"))
    answer = closed.post("/v1/sessions", headers=opened)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    answer = closed.delete("/v1/sessions/current", headers=token(store, "ada", "read"))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    answer = service(store, tmp_path).post("/v1/sessions")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    forged = {"Authorization": opened["Authorization"][:-3] + "abc"}
    for headers in (forged, {"Authorization": "Bearer hwnas_session_x"}):
        assert closed.get("/v1/me", headers=headers).status_code == 401


def test_idempotency_keys_are_separate_for_each_owner(closed: TestClient, store: Store) -> None:
    ids = set()
    for owner in ("ada", "bob", "ada"):
        headers = {**token(store, owner, "submit"), "Idempotency-Key": "k"}
        ids.add(
            closed.post("/v1/searches", json=fakes.search_spec().model_dump(mode="json"), headers=headers).json()["id"]
        )
    assert len(ids) == 2


def test_open_service_accepts_loopback_names_and_own_origin_only(store: Store, tmp_path: Path) -> None:
    api = service(store, tmp_path)
    assert api.get("/v1/me").json()["scopes"] == ["admin"]
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", ""):
        answer = api.get("/v1/me", headers={"Host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), host
    for host in ("localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765"):
        assert api.get("/v1/me", headers={"Host": host}).status_code == 200, host
    spec = fakes.search_spec().model_dump(mode="json")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert api.post("/v1/searches", json=spec, headers={"Origin": origin}).status_code == 403
    assert api.post("/v1/searches", json=spec, headers={"Origin": "http://127.0.0.1"}).status_code == 201


@pytest.mark.timeout(60)
def test_event_stream_of_a_revoked_token_ends(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = store.tokens.create("ada", "test", ["submit"], None, LOCAL)
    spec = fakes.search_spec().model_dump(mode="json")
    headers = {"Authorization": f"Bearer {text}"}
    monkeypatch.setattr(sse, "ADMISSION_S", 0.05)
    streams = sse.EventStreams(store.changes)
    api = TestClient(create_app(Settings(home=tmp_path, require_tokens=True), store, streams), "http://127.0.0.1")
    search = api.post("/v1/searches", json=spec, headers=headers).json()["id"]
    revocation = threading.Timer(0.3, store.tokens.revoke, (text.split("_")[1], LOCAL))
    revocation.start()
    answer = api.get(f"/v1/searches/{search}/events", headers={**headers, "Accept": "text/event-stream"})
    assert revocation.finished.is_set(), "the stream ended before its token was revoked"
    assert answer.status_code == 200
    assert "event: end" not in answer.text
    assert streams.open == 0


def test_open_service_honours_a_token(store: Store, tmp_path: Path) -> None:
    api = service(store, tmp_path)
    assert api.get("/v1/tokens", headers=token(store, "ada", "read")).status_code == 403
    assert api.get("/v1/me", headers={"Authorization": "Bearer hwnas_0_0"}).status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "nas.example"])
def test_addresses_beyond_loopback_require_tokens(host: str, tmp_path: Path) -> None:
    assert access.requires_tokens(Settings(home=tmp_path, host=host))


def test_websockets_of_foreign_origins_are_closed(store: Store, tmp_path: Path) -> None:
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        sent.append("reached")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    gate = access.RequestGuardMiddleware(app, access.Authorizer(Settings(home=tmp_path), store))
    for origin in (b"http://evil.example", b"http://localhost:8765"):
        scope = {"type": "websocket", "path": "/_ws", "headers": [(b"host", b"localhost:8765"), (b"origin", origin)]}
        asyncio.run(gate(scope, None, send))  # type: ignore[arg-type]
    assert sent == ["websocket.close", "reached"]


def test_every_response_has_security_headers(closed: TestClient) -> None:
    for path in ("/healthz", "/v1/me", "/nothing"):
        headers = closed.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_data_paths_must_be_below_data_roots(store: Store, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "out").symlink_to("/etc")
    api = service(store, tmp_path, require_tokens=True, data_roots=(tmp_path / "data",))
    headers = token(store, "ada", "submit", "device")
    for path in (
        "/etc/passwd",
        "data/../../etc/passwd",
        str(tmp_path / "data" / ".." / "db"),
        str(tmp_path / "data/out/x"),
    ):
        spec = fakes.search_spec(data={"name": "npz", "path": path}).model_dump(mode="json")
        answer = api.post("/v1/searches", json=spec, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
        assert "data.path: expected a path below" in answer.json()["message"]


@pytest.fixture
def tokens(url: str, tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(url, str(tmp_path), clock) as opened:
        yield opened


def test_token_creation_use_and_revocation(tokens: Store, clock: fakes.Clock) -> None:
    assert not tokens.tokens.any_valid()
    view, text = tokens.tokens.create("ada", "laptop", ["submit", "read"], clock() + DAY, LOCAL)
    assert view.scopes == ["read", "submit"]
    assert tokens.tokens.any_valid()
    assert tokens.tokens.authenticate(text, "::1").owner == "ada"
    assert tokens.tokens.list()[0].last_used_at is not None
    assert text.split("_", 2)[2] not in repr(tokens.tokens.list())
    clock.pass_(DAY)
    assert not tokens.tokens.any_valid()
    with pytest.raises(Unauthorised, match="expired"):
        tokens.tokens.authenticate(text)
    for bad in ("", "x", text[:-1], text + "a", "hwnas_" + "0" * 12 + "_" + "a" * 43):
        with pytest.raises(Unauthorised):
            tokens.tokens.authenticate(bad)
    with pytest.raises(NotFound):
        tokens.tokens.revoke("nothing", LOCAL)
    for owner, scopes, end in (("", ["read"], None), ("a b", ["read"], None), ("a", [], None), ("a", ["read"], 1.0)):
        with pytest.raises(InvalidInput):
            tokens.tokens.create(owner, "x", scopes, end, LOCAL)  # type: ignore[arg-type]


# Health


def test_readiness_names_failed_checks(store: Store, tmp_path: Path) -> None:
    api = service(store, tmp_path)
    view = ReadinessSchema.model_validate(api.get("/readyz").json())
    assert view.ready
    assert {c.name: c.status for c in view.checks} == {
        "database": "ok",
        "schema": "ok",
        "storage": "ok",
        "disk": "ok",
        "dispatcher": "warning",
    }
    store.jobs.heartbeat("w", 1)
    assert "warning" not in api.get("/readyz").text
    blobs = tmp_path / "blobs"
    for path in sorted(blobs.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    blobs.rmdir()
    blobs.write_text("in the way")
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert [c["name"] for c in answer.json()["checks"] if c["status"] == "failed"] == ["storage"]
    assert api.get("/healthz").json() == {"status": "ok"}


def test_metrics_count_requests_jobs_and_refusals(store: Store, tmp_path: Path, clock: fakes.Clock) -> None:
    api = service(store, tmp_path)
    store.jobs.heartbeat("w", 3)
    fakes.add_search(store)
    fakes.run_log(store, fakes.search_log())
    fakes.add_search(store)
    clock.pass_(7.0)
    api.get("/v1/searches/nothing")
    text = api.get("/metrics").text
    figures = {
        (s.name, *sorted(s.labels.values())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }
    assert figures["hwnas_jobs", "queued", "search"] == 1
    assert figures["hwnas_jobs", "search", "succeeded"] == 1
    assert figures["hwnas_oldest_queued_seconds",] == 7.0
    assert figures["hwnas_worker_slots",] == 3
    assert figures["hwnas_evaluations_total",] == 5  # those of the baseline, too
    assert figures["hwnas_http_request_seconds_count", "/v1/searches/{id}", "404", "GET"] == 1
    assert not any("nothing" in str(key) for key in figures)


def test_metrics_require_admin_scope(closed: TestClient, store: Store) -> None:
    assert closed.get("/metrics").status_code == 401
    assert closed.get("/metrics", headers=token(store, "ada", "read")).status_code == 403
    assert closed.get("/metrics", headers=token(store, "ada", "admin")).status_code == 200


@pytest.mark.parametrize("limits", [{"max_queued": True}, {"max_running": 1.5}, {"gpu_hours": False}])
def test_limits_are_numbers(closed: TestClient, store: Store, limits: dict[str, Any]) -> None:
    headers = token(store, "root", "admin")
    assert closed.put("/v1/quotas/ada", json={"max_queued": 3, "gpu_hours": 2}, headers=headers).status_code == 200
    assert closed.put("/v1/quotas/ada", json=limits, headers=headers).status_code == 422
    assert store.quotas.view("ada").max_queued == 3


def test_logs_contain_job_id_and_no_secret() -> None:
    record = logging.LogRecord(
        "x",
        logging.INFO,
        "",
        1,
        "see %s and %s",
        ("hwnas_0123456789ab_" + "S" * 43, "postgresql://ada:pass@host/db"),
        None,
    )
    with job_context("0123"):
        line = json.loads(logs.JsonFormatter().format(record))
    assert line["job"] == "0123"
    assert line["message"] == "see hwnas_0123456789ab_*** and postgresql://ada:***@host/db"
    assert "job" not in json.loads(logs.JsonFormatter().format(record))
    assert "SSS" not in logs.RedactingFormatter("%(message)s").format(record)
    record.args = ("hwnas_session_0123456789ab_" + "S" * 43, "")
    assert "hwnas_session_0123456789ab_*** " in logs.RedactingFormatter("%(message)s").format(record)
