"""Who may do what: one table from routes to scopes, checked before anything else of a request is looked at."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from nas.core.access import LOCAL_OWNER, Principal, Scope
from nas.core.errors import Forbidden, NotFound, Unauthorised
from nas.core.views import ProblemView
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
        """Sets ``request.state.principal``. Raises Unauthorised, Forbidden, or NotFound for what is somebody else's."""
        route = request.scope["route"].path
        scope = SCOPES.get((request.method if request.method != "HEAD" else "GET", route))
        if scope is None:
            raise Forbidden(f"nobody may {request.method} {route}")
        principal = self.principal(request)
        principal.require(scope)
        if "/searches/{id}" in route and not principal.is_admin:
            search = request.path_params["id"]
            if self._store.queries.owner_of(search) != principal.owner:
                raise NotFound(f"no search {search!r}")
        request.state.principal = principal

    def principal(self, request: Request) -> Principal:
        """Who asks. Raises Unauthorised."""
        address = request.client.host if request.client is not None else None
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
    """What holds for every request, dashboard and websockets included.

    An open service on loopback answers to loopback names only, so that no foreign name can be made to point here (DNS
    rebinding). What changes something, and every websocket, must come from a page of our own, if from a page at all.
    Every answer says that it is not to be framed, sniffed or leaked.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._open = not tokens_needed(settings)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Refuses with 403, or passes on and adds headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reason = self._refusal(scope, headers)
        if reason is not None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
                return
            body = ProblemView(code=Forbidden.code, message=reason).model_dump()
            await JSONResponse(body, 403)(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(k, v) for k, v in _HEADERS if k not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, guarded)

    def _refusal(self, scope: AsgiScope, headers: Headers) -> str | None:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._open and not is_loopback(name):
            return f"expected a loopback name in Host, such as localhost, got {name!r}; see `require_tokens`"
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and origin.partition("://")[2] != host:
            return f"expected a request from a page of this service, got one from {origin!r}"
        return None


# NiceGUI's pages need inline scripts and styles; nothing is ever loaded from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", _POLICY.encode()),
]
