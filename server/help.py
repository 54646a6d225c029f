"""The documentation site under ``/help``, as ``make docs`` has built it; and the pages of the API without a network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.staticfiles import StaticFiles

HELP_SITE = Path(__file__).parent / "help_site"
_ASSETS = "/_api_docs"
_NOT_BUILT = (
    "The documentation was not built into this installation. In a checkout, `make docs` builds it; its pages are the "
    "Markdown files in the folder docs.\n"
)
_NO_ASSETS = "This page needs the package fastapi-offline, which hwnas depends on: pip install fastapi-offline\n"


def add_help(app: FastAPI, site: Path = HELP_SITE) -> None:
    """Serve the site; without one, a sentence on how to build it, with status 404."""
    if (site / "index.html").is_file():
        app.mount("/help", StaticFiles(directory=site, html=True), name="help")
        return
    app.add_route("/help", _answer(_NOT_BUILT), include_in_schema=False)


def _answer(message: str) -> Callable[[Request], Awaitable[Response]]:
    """A route for something that this installation does not have."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse(message, 404)

    return answer


def add_api_pages(app: FastAPI) -> None:
    """``/docs`` (Swagger UI) and ``/redoc``, whose scripts and styles come from this service; where the package that
    holds them is missing, a sentence that says so."""
    if find_spec("fastapi_offline") is None:
        for path in ("/docs", "/redoc"):
            app.add_route(path, _answer(_NO_ASSETS), include_in_schema=False)
        return
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]), name="api pages")

    async def swagger(_: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: try the API",
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon.png",
        )

    async def redoc(_: Request) -> Response:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: the API",
            redoc_js_url=f"{_ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{_ASSETS}/favicon.png",
            with_google_fonts=False,
        )

    app.add_route("/docs", swagger, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
