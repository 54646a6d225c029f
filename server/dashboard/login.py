"""Logging in to the dashboard with an API token, kept in a cookie that no script can read and no other site can use."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from nicegui import run, ui

from nas.client import Client
from nas.core.errors import HwnasError

COOKIE = "hwnas_token"
_MOST = 4096  # bytes of a form with a token in it
_DAY_S = 24 * 3600
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · hwnas</title><link rel="stylesheet" href="/_dashboard/login.css"></head>
<body><main><h1>hwnas</h1><p>This service asks who you are. Paste your API token; an administrator makes one with
<code>nas tokens create</code>.</p>
<form method="post" action="/login"><label for="token">API token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus
 placeholder="hwnas_…">{problem}<button>Log in</button></form></main></body></html>"""


class Sessions:
    """The clients of whoever is logged in. ``closed``: pages need a token."""

    def __init__(self, api_url: str, timeout_s: float, *, closed: bool) -> None:
        self.closed = closed
        self._api_url = api_url
        self._timeout_s = timeout_s
        self._clients: dict[str | None, Client] = {}

    def client(self, token: str | None) -> Client | None:
        """What a page reads the service with; None when somebody has to log in first."""
        if self.closed and not token:
            return None
        key = token if self.closed else None
        if key not in self._clients:
            self._clients[key] = Client(self._api_url, token=key, timeout_s=self._timeout_s)
        return self._clients[key]

    def forget(self, token: str | None) -> None:
        """Closes the connections of one who has logged out."""
        if self.closed and (client := self._clients.pop(token, None)) is not None:
            client.close()

    def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            client.close()

    def page(self, draw: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[Response | None]]:
        """A page function without its first argument, the client; it leads to the login where there is none."""

        @functools.wraps(draw)
        async def shown(*given: Any, **named: Any) -> Response | None:
            request = ui.context.client.request
            client = self.client(request.cookies.get(COOKIE))
            if client is None:
                return RedirectResponse("/login", 303)
            await draw(client, *given, **named)
            return None

        signature = inspect.signature(draw)
        rest = list(signature.parameters.values())[1:]
        shown.__signature__ = signature.replace(parameters=rest, return_annotation=Any)  # type: ignore[attr-defined]
        return shown


def add_routes(app: FastAPI, sessions: Sessions) -> None:
    """Adds the pages to log in and out. They are plain HTML: nothing of the dashboard is sent to strangers."""

    @app.get("/_dashboard/login.css", include_in_schema=False)
    def style() -> Response:
        return Response((Path(__file__).parent / "static" / "login.css").read_text(), media_type="text/css")

    @app.get("/login", include_in_schema=False)
    def ask() -> Response:
        return _page("") if sessions.closed else RedirectResponse("/", 303)

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST:
                return _page("That is no token: it is too long.", 413)
        token = parse_qs(body.decode(errors="replace")).get("token", [""])[0].strip()
        client = sessions.client(token)
        if client is None:
            return _page("Paste a token first.", 401)
        try:
            await run.io_bound(client.me)
        except HwnasError as error:
            sessions.forget(token)
            return _page(str(error), 401)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(COOKIE, token, max_age=30 * _DAY_S, httponly=True, samesite="strict", secure=secure)
        return answer

    @app.get("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        sessions.forget(request.cookies.get(COOKIE))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


def _page(problem: str, status: int = 200) -> Response:
    shown = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return HTMLResponse(_PAGE.replace("{problem}", shown), status, {"Cache-Control": "no-store"})
