"""The login with an API token, which opens a session of the service.

A cookie that no script can read and no other site can use holds the secret of the session, never the token.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import run, ui
from starlette.types import ASGIApp, Receive, Scope, Send

from nas.client import Client
from nas.core.errors import Forbidden, HwnasError, InvalidInput, Unauthorised
from server.dashboard.service_calls import call_service

COOKIE = "hwnas_session"
_FORMER_COOKIE = "hwnas_token"  # held the token itself
_FILE = re.compile(r"/v1/searches/[^/]+/artifacts/[^/]+/[^/]+")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · hwnas</title><link rel="stylesheet" href="/_dashboard/login.css"></head>
<body><main><h1>hwnas</h1><p>This service requires a token. Paste your API token; an administrator creates one with
<code>nas tokens create</code>.</p>
<form method="post" action="/login"><input type="hidden" name="next" value="{next}"><label for="token">API token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus
 placeholder="hwnas_…">{problem}<button>Log in</button></form></main></body></html>"""


class Sessions:
    """The clients of authenticated readers, over shared connections. ``closed``: pages need a session."""

    def __init__(self, client: Client, *, closed: bool) -> None:
        self.closed = closed
        self._client = client

    def client(self, secret: str | None) -> Client | None:
        """The client for the secret of a token or session; None if the reader has to log in first."""
        if not self.closed:
            return self._client
        try:
            return self._client.using(secret) if secret else None
        except InvalidInput:
            return None

    async def admitted(self, secret: str | None) -> Client | None:
        """The client for a session; None also for one that the service refuses, such as that of a revoked token."""
        client = self.client(secret)
        if client is not None and self.closed:
            try:
                await run.io_bound(client.me)
            except (Unauthorised, Forbidden):
                return None
            except HwnasError:
                pass  # the page shows what is wrong with the service
        return client

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def page(self, draw: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[Response | None]]:
        """A page function without its first argument, the client; it redirects to the login if there is no client."""

        @functools.wraps(draw)
        async def draw_page(*args: Any, **kwargs: Any) -> Response | None:
            request = ui.context.client.request
            client = await self.admitted(request.cookies.get(COOKIE))
            if client is None:
                return RedirectResponse(f"/login?next={quote(request.url.path)}", 303)
            await draw(client, *args, **kwargs)
            return None

        signature = inspect.signature(draw)
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters, return_annotation=Any)
        draw_page.__signature__ = signature  # type: ignore[attr-defined]  # NiceGUI reads the parameters of the page
        return draw_page


def add_routes(app: FastAPI, sessions: Sessions) -> None:
    """Add the pages to log in and out. They are plain HTML: the dashboard itself is sent after the login only."""

    if sessions.closed:
        app.add_middleware(DownloadAuthMiddleware)

    @app.get("/_dashboard/login.css", include_in_schema=False)
    def style() -> Response:
        return Response((Path(__file__).parent / "static" / "login.css").read_text(), media_type="text/css")

    @app.get("/login", include_in_schema=False)
    def ask(next: str = "/") -> Response:
        return _page("", next) if sessions.closed else RedirectResponse("/", 303)

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
        token, target = form.get("token", "").strip(), form.get("next", "/")
        client = sessions.client(token)
        if client is None:
            return _page("Expected a token that begins with hwnas_", target, 401)
        try:
            session = await call_service(client.open_session)
        except HwnasError as error:
            return _page(str(error), target, 401)
        answer = RedirectResponse(_local(target), 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(
            COOKIE, session.secret, expires=session.expires_at, httponly=True, samesite="strict", secure=secure
        )
        answer.delete_cookie(_FORMER_COOKIE, httponly=True, samesite="strict")
        return answer

    @app.get("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        client = sessions.client(request.cookies.get(COOKIE)) if sessions.closed else None
        if client is not None:
            with contextlib.suppress(Unauthorised):  # it has ended already
                client.end_session()
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


class DownloadAuthMiddleware:
    """Authenticates the download of an exported model's file by the cookie, so that links work in a browser.

    No other route below /v1 accepts the cookie, which browsers never send with requests of other sites.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Copy the session's secret from the cookie to the Authorization header."""
        if scope["type"] == "http" and scope["method"] == "GET" and _FILE.fullmatch(scope["path"]):
            request = Request(scope)
            secret = request.cookies.get(COOKIE)
            if secret is not None and "authorization" not in request.headers:
                header = (b"authorization", f"Bearer {secret}".encode("latin-1", "replace"))
                scope = {**scope, "headers": [*scope["headers"], header]}
        await self._app(scope, receive, send)


def _local(target: str) -> str:
    """``target`` if its decoded form, which is what browsers are sent to, is a path of this service; otherwise the
    list of searches."""
    path = unquote(target)
    plain = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return quote(path) if plain else "/"


def _page(problem: str, target: str, status: int = 200) -> Response:
    alert = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    text = _PAGE.replace("{next}", escape(_local(target))).replace("{problem}", alert)
    return HTMLResponse(text, status, {"Cache-Control": "no-store"})
