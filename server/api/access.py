"""Who may do what: one table from routes to scopes, checked before anything else of a request is looked at."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from nas.core.access import LOCAL_OWNER, Principal, Scope
from nas.core.errors import Forbidden, HwnasError, NotFound, Unauthorised
from server.api import errors
from server.settings import Settings
from server.store.store import Store

# What each route below /v1 asks for. A route that is not here is closed to everybody.
SCOPES: Mapping[tuple[str, str], Scope] = {
    ("GET", "/health"): "read",
    ("GET", "/workers"): "read",
    ("GET", "/spaces"): "read",
    ("GET", "/strategies"): "read",
    ("GET", "/datasets"): "read",
    ("GET", "/me"): "read",
    ("GET", "/searches"): "read",
    ("POST", "/searches"): "submit",
    ("GET", "/searches/{id}"): "read",
    ("DELETE", "/searches/{id}"): "submit",
    ("POST", "/searches/{id}/pause"): "submit",
    ("POST", "/searches/{id}/resume"): "submit",
    ("POST", "/searches/{id}/cancel"): "submit",
    ("POST", "/searches/{id}/retry"): "submit",
    ("POST", "/searches/{id}/extend"): "submit",
    ("POST", "/searches/{id}/fork"): "submit",
    ("PUT", "/searches/{id}/priority"): "submit",
    ("GET", "/searches/{id}/front"): "read",
    ("GET", "/searches/{id}/candidates"): "read",
    ("GET", "/searches/{id}/subnets/{arch}"): "read",
    ("GET", "/searches/{id}/artifacts"): "read",
    ("GET", "/searches/{id}/artifacts/{arch}/{name}"): "read",
    ("GET", "/searches/{id}/events"): "read",
    ("GET", "/devices"): "read",
    ("POST", "/devices"): "device",
    ("GET", "/devices/{name}"): "read",
    ("GET", "/devices/{name}/events"): "read",
    ("GET", "/devices/{name}/versions"): "read",
    ("GET", "/devices/{name}/drift"): "read",
    ("GET", "/devices/{name}/comparison"): "read",
    ("GET", "/agents"): "read",
    ("PUT", "/agents/{name}"): "device",
    ("POST", "/agents/{name}/claim"): "device",
    ("GET", "/agents/{name}/tasks/{id}/model"): "device",
    ("POST", "/agents/{name}/tasks/{id}/beat"): "device",
    ("POST", "/agents/{name}/tasks/{id}/release"): "device",
    ("POST", "/agents/{name}/tasks/{id}/result"): "device",
    ("POST", "/tables"): "device",
    ("GET", "/predictors"): "read",
    ("GET", "/predictors/{id}"): "read",
    ("GET", "/tokens"): "admin",
    ("POST", "/tokens"): "admin",
    ("DELETE", "/tokens/{id}"): "admin",
    ("GET", "/quotas"): "admin",
    ("PUT", "/quotas/{owner}"): "admin",
    ("GET", "/audit"): "admin",
}


def is_loopback(host: str) -> bool:
    """Whether a bind address or a ``Host`` name means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def tokens_needed(settings: Settings) -> bool:
    """Whether requests without a token are refused."""
    return settings.require_tokens or not is_loopback(settings.host)


class Guard:
    """Lets requests in: a token's holder, or whoever sits at the machine while no tokens are needed."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.closed = tokens_needed(settings)
        self._store = store

    def __call__(self, request: Request) -> None:
        """Holds ``request.state.principal`` to the route. Raises Forbidden, or NotFound for what is somebody else's."""
        route = request.scope["route"].path
        scope = SCOPES.get((request.method if request.method != "HEAD" else "GET", route))
        if scope is None:
            raise Forbidden(f"nobody may {request.method} {route}")
        principal: Principal = request.state.principal
        principal.require(scope)
        if "/searches/{id}" in route and not principal.is_admin:
            search = request.path_params["id"]
            if self._store.queries.owner_of(search) != principal.owner:
                raise NotFound(f"no search {search!r}")

    def principal(self, request: Request) -> Principal:
        """Who asks. Raises Unauthorised."""
        address = request.client.host[:64] if request.client is not None else None
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and text:
            return self._store.tokens.check(text.strip(), address)
        if self.closed:
            raise Unauthorised("expected a token: send it as `Authorization: Bearer hwnas_...`")
        return Principal(LOCAL_OWNER, frozenset({"admin"}), None, address)


def principal_of(request: Request) -> Principal:
    """Whom the guard has let in."""
    found: Principal = request.state.principal
    return found


By = Annotated[Principal, Depends(principal_of)]


class Gate:
    """What holds for every request, dashboard and websockets included, before any of its body is read.

    An open service on loopback answers to loopback names only, so that no foreign name can be made to point here (DNS
    rebinding), and to nobody whom a proxy brings in. What changes something, and every websocket, must come from a page
    of our own, if from a page at all. Whoever asks anything below /v1 has to be known. Every answer says that it is not
    to be framed, sniffed or leaked.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Refuses with 401 or 403, or notes who asks, passes on and adds headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(k, v) for k, v in _headers(scope["path"]) if k not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check_origin(scope, Headers(scope=scope))
            if scope["path"].startswith("/v1/"):
                scope.setdefault("state", {})["principal"] = await self._principal(scope)
        except HwnasError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
            else:
                await errors.problem(error)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    async def _principal(self, scope: AsgiScope) -> Principal:
        request = Request(scope)
        if "authorization" in request.headers:  # to be looked up in the database
            return await run_in_threadpool(self._guard.principal, request)
        return self._guard.principal(request)

    def _check_origin(self, scope: AsgiScope, headers: Headers) -> None:
        """Raises Forbidden."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self._guard.closed:
            if not is_loopback(name):
                raise Forbidden(
                    f"expected a loopback name in Host, such as localhost, got {name[:100]!r}; see `require_tokens`"
                )
            if proxy := next((known for known in _PROXIES if known in headers), None):
                raise Forbidden(f"expected a request from this machine, got one with {proxy!r}; see `require_tokens`")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and origin.partition("://")[2] != host:
            raise Forbidden(f"expected a request from a page of this service, got one from {origin[:100]!r}")


_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")  # what they add
_POLICIES = {
    # Answers of the API are no pages.
    "/v1/": "default-src 'none'; frame-ancestors 'none'",
    # FastAPI's page about the API takes its script and its style from there.
    "/docs": "default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; connect-src 'self'; "
    "style-src https://cdn.jsdelivr.net 'unsafe-inline'; img-src https://fastapi.tiangolo.com data:; "
    "frame-ancestors 'none'",
    # NiceGUI's pages need inline scripts and styles; nothing is ever loaded from elsewhere.
    "/": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; worker-src 'self' blob:; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, the Origin of our own forms would be null
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = next(policy for start, policy in _POLICIES.items() if path.startswith(start) or start == "/")
    kept = [(b"cache-control", b"no-store")] if path.startswith("/v1/") else []
    return [*_HEADERS, (b"content-security-policy", policy.encode()), *kept]
