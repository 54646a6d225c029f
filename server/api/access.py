"""Authentication and authorisation: one table from routes to required scopes, checked before a request is parsed."""

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
from server.store.sessions import SESSION_PREFIX
from server.store.store import Store

# By method and route below /v1. A route without an entry is closed to everybody.
REQUIRED_SCOPES: Mapping[tuple[str, str], Scope] = {
    ("GET", "/health"): "read",
    ("GET", "/workers"): "read",
    ("GET", "/spaces"): "read",
    ("GET", "/strategies"): "read",
    ("GET", "/tasks"): "read",
    ("GET", "/datasets"): "read",
    ("GET", "/runtimes"): "read",
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
    ("GET", "/searches/{id}/candidates/{arch}"): "read",
    ("GET", "/searches/{id}/artifacts"): "read",
    ("GET", "/searches/{id}/artifacts/{arch}/{name}"): "read",
    ("GET", "/searches/{id}/events"): "read",
    ("GET", "/searches/{id}/recommendation"): "read",
    ("GET", "/searches/{id}/candidates/{arch}/waterline"): "read",
    ("GET", "/searches/{id}/candidates/{arch}/scaled"): "read",
    ("GET", "/searches/{id}/cascades"): "read",
    ("POST", "/searches/{id}/cascades"): "submit",
    ("GET", "/searches/{id}/cascades/{cascade}"): "read",
    ("GET", "/searches/{id}/cascades/{cascade}/file"): "read",
    ("DELETE", "/searches/{id}/cascades/{cascade}"): "submit",
    ("GET", "/searches/{id}/importance"): "read",
    ("GET", "/searches/{id}/logs"): "read",
    ("GET", "/searches/{id}/marks"): "read",
    ("PUT", "/searches/{id}/mark"): "submit",
    ("PUT", "/searches/{id}/candidates/{arch}/mark"): "submit",
    ("GET", "/devices"): "read",
    ("POST", "/devices"): "device",
    ("GET", "/devices/{name}"): "read",
    ("DELETE", "/devices/{name}"): "device",
    ("PUT", "/devices/{name}/name"): "device",
    ("PUT", "/devices/{name}/owner"): "device",
    ("GET", "/devices/{name}/events"): "read",
    ("GET", "/devices/{name}/versions"): "read",
    ("GET", "/devices/{name}/drift"): "read",
    ("GET", "/devices/{name}/comparison"): "read",
    ("GET", "/onboardings"): "read",
    ("GET", "/onboardings/{id}"): "read",
    ("GET", "/onboardings/{id}/events"): "read",
    ("POST", "/onboardings/{id}/pause"): "device",
    ("POST", "/onboardings/{id}/resume"): "device",
    ("POST", "/onboardings/{id}/cancel"): "device",
    ("POST", "/onboardings/{id}/retry"): "device",
    ("PUT", "/onboardings/{id}/priority"): "device",
    ("DELETE", "/onboardings/{id}"): "device",
    ("GET", "/agents"): "read",
    ("PUT", "/agents/{name}"): "agent",
    ("POST", "/agents/{name}/token"): "device",
    ("POST", "/agents/{name}/claim"): "agent",
    ("GET", "/agents/{name}/tasks/{id}/model"): "agent",
    ("POST", "/agents/{name}/tasks/{id}/beat"): "agent",
    ("POST", "/agents/{name}/tasks/{id}/release"): "agent",
    ("POST", "/agents/{name}/tasks/{id}/result"): "agent",
    ("POST", "/tables"): "device",
    ("POST", "/model-files"): "submit",
    ("POST", "/data-files"): "submit",
    ("GET", "/data"): "read",
    ("POST", "/data"): "submit",
    ("GET", "/data/{name}"): "read",
    ("POST", "/data/{name}/check"): "submit",
    ("GET", "/data/{name}/samples"): "read",
    ("DELETE", "/data/{name}"): "submit",
    ("GET", "/models"): "read",
    ("POST", "/models"): "submit",
    ("GET", "/models/{name}"): "read",
    ("GET", "/models/{name}/events"): "read",
    ("POST", "/models/{name}/cancel"): "submit",
    ("POST", "/models/{name}/retry"): "submit",
    ("DELETE", "/models/{name}"): "submit",
    ("GET", "/predictors"): "read",
    ("GET", "/predictors/{id}"): "read",
    ("POST", "/sessions"): "read",
    ("DELETE", "/sessions/current"): "read",
    ("GET", "/tokens"): "admin",
    ("POST", "/tokens"): "admin",
    ("DELETE", "/tokens/{id}"): "admin",
    ("GET", "/quotas"): "admin",
    ("PUT", "/quotas/{owner}"): "admin",
    ("GET", "/audit"): "admin",
}


def is_loopback(host: str) -> bool:
    """Whether a bind address or a ``Host`` name refers to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def requires_tokens(settings: Settings) -> bool:
    """Whether the service refuses requests without a token."""
    return settings.require_tokens or not is_loopback(settings.host)


class Authorizer:
    """Authenticates callers and holds them to the scope of a route.

    On an open service, which listens on loopback only, every caller without a token is a local administrator.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.tokens_required = requires_tokens(settings)
        self._store = store

    def __call__(self, request: Request) -> None:
        """Check that ``request.state.principal`` may use the route.

        Raises Forbidden, also for an agent of another device, or NotFound if the route names a search of another owner.
        """
        route = request.scope["route"].path
        scope = REQUIRED_SCOPES.get((request.method if request.method != "HEAD" else "GET", route))
        if scope is None:
            raise Forbidden(f"method not allowed for this route: {request.method} {route}")
        principal: Principal = request.state.principal
        principal.require(scope)
        if principal.device is not None and request.path_params.get("name") != principal.device:
            raise Forbidden(f"expected a request for device {principal.device!r}, which this token is bound to")
        if "/searches/{id}" in route and not principal.is_admin:
            search = request.path_params["id"]
            if self._store.queries.owner_of(search) != principal.owner:
                raise NotFound(f"no search {search!r}")

    def authenticate(self, request: Request) -> Principal:
        """The caller. Raises Unauthorised for a missing, unknown, expired or revoked token or session."""
        address = request.client.host[:64] if request.client is not None else None
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and text:
            secret = text.strip()
            store = self._store.sessions if secret.startswith(SESSION_PREFIX) else self._store.tokens
            return store.authenticate(secret, address)
        if self.tokens_required:
            raise Unauthorised("expected a token: send it as `Authorization: Bearer hwnas_...`")
        return Principal(LOCAL_OWNER, frozenset({"admin"}), None, address)

    def still_admits(self, principal: Principal) -> bool:
        """Whether the token of a caller who was admitted before still holds, and the session, if it was one."""
        if principal.session_id is not None and not self._store.sessions.holds(principal.session_id):
            return False
        return principal.token_id is None or self._store.tokens.holds(principal.token_id)


async def _authenticated(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(_authenticated)]


class RequestGuardMiddleware:
    """Checks every request before its body is read, including the dashboard and websockets.

    - An open service on loopback answers to loopback names only, so that no foreign name can be made to resolve to it
      (DNS rebinding), and refuses requests that come through a proxy.
    - A request that changes something, and every websocket, must come from a page of this service if from any page.
    - Requests below /v1 must be authenticated.
    - Every response carries security headers: not to be framed, sniffed or leaked.
    """

    def __init__(self, app: ASGIApp, authorizer: Authorizer) -> None:
        self._app = app
        self._authorizer = authorizer

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Refuse with 401 or 403, or store the caller in the request's state, forward the request and add headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = [(k, v) for k, v in _security_headers(scope["path"]) if k not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check_origin(scope, Headers(scope=scope))
            if scope["path"].startswith("/v1/"):
                scope.setdefault("state", {})["principal"] = await self._authenticate(scope)
        except HwnasError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": str(error)[:120]})
            else:
                await errors.error_response(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    async def _authenticate(self, scope: AsgiScope) -> Principal:
        request = Request(scope)
        if "authorization" in request.headers:  # looked up in the database, which blocks
            return await run_in_threadpool(self._authorizer.authenticate, request)
        return self._authorizer.authenticate(request)

    def _check_origin(self, scope: AsgiScope, headers: Headers) -> None:
        """Raises Forbidden."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not self._authorizer.tokens_required:
            if not is_loopback(name):
                raise Forbidden(
                    f"expected a loopback name in Host, such as localhost, got {name[:100]!r}; see `require_tokens`"
                )
            if proxy := next((header for header in _PROXY_HEADERS if header in headers), None):
                raise Forbidden(f"expected a request from this machine, got one with {proxy!r}; see `require_tokens`")
        origin = headers.get("origin")
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and origin is not None and origin.partition("://")[2] != host:
            raise Forbidden(f"expected a request from a page of this service, got one from {origin[:100]!r}")


_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_POLICIES = {
    # Responses of the API are never rendered.
    "/v1/": "default-src 'none'; frame-ancestors 'none'",
    # The pages of the API and the documentation site have inline scripts; ReDoc starts a worker from a blob.
    **dict.fromkeys(
        ("/docs", "/redoc", "/help"),
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
        "img-src 'self' data:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'none'",
    ),
    # NiceGUI's pages need inline scripts and styles; nothing is loaded from other hosts.
    "/": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; worker-src 'self' blob:; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
}
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with no-referrer, the Origin header of the dashboard's forms would be null
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def _security_headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = next(policy for start, policy in _POLICIES.items() if path.startswith(start) or start == "/")
    caching = [(b"cache-control", b"no-store")] if path.startswith("/v1/") else []
    return [*_HEADERS, (b"content-security-policy", policy.encode()), *caching]
