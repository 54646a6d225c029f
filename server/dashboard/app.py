"""The entry of the dashboard: adds its pages to a FastAPI app. Browsers load nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from nicegui import Client as Page
from nicegui import app as pages
from nicegui import ui
from nicegui.page import page as Route

from nas.client import Client
from nas.core.errors import NotFound
from nas.schemas.common import ErrorSchema
from server.dashboard.candidate.page import candidate_page
from server.dashboard.compare.networks_page import compare_networks_page
from server.dashboard.compare.searches_page import compare_searches_page
from server.dashboard.data_sets.list_page import data_sets_page
from server.dashboard.data_sets.page import data_set_page
from server.dashboard.devices.compare_page import compare_page
from server.dashboard.devices.list_page import devices_page
from server.dashboard.devices.page import device_page
from server.dashboard.layout import LOGO, page_layout
from server.dashboard.login import COOKIE, Sessions, add_routes
from server.dashboard.models.list_page import models_page
from server.dashboard.models.page import model_page
from server.dashboard.search.page import search_page
from server.dashboard.searches.page import searches_page
from server.dashboard.service.page import service_page
from server.dashboard.submit.page import submit_page

_STATIC = Path(__file__).parent / "static"
_TIMEOUT_S = 20.0  # of the service, and so of a page: a page that answers earlier does not know yet whether it exists


def mount(app: FastAPI, api_url: str, *, closed: bool = False) -> None:
    """Add the dashboard to ``app`` under ``/``, reading the REST service at ``api_url``; ``closed``: with the token of
    the reader who has logged in.

    Call it once per process, after every other route was added: the dashboard answers all paths without a route.
    """
    sessions = Sessions(Client(api_url, timeout_s=_TIMEOUT_S), closed=closed)
    pages.on_shutdown(sessions.close)
    add_routes(app, sessions)
    pages.add_static_files("/_dashboard", _STATIC)
    version = int((_STATIC / "dashboard.css").stat().st_mtime)
    ui.add_head_html(f'<link rel="stylesheet" href="/_dashboard/dashboard.css?v={version}">', shared=True)

    @ui.page("/", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def searches(client: Client, status: str = "", owner: str = "") -> None:
        await searches_page(client, status, owner)

    @ui.page("/searches/{search_id}", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def search(client: Client, search_id: str) -> None:
        await search_page(client, search_id)

    @ui.page("/searches/{search_id}/candidates/{arch}", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def candidate(client: Client, search_id: str, arch: str, origin: str = "search") -> None:
        await candidate_page(client, search_id, arch, origin)

    @ui.page("/devices", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def devices(client: Client) -> None:
        await devices_page(client)

    @ui.page("/devices/{name}", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def device(client: Client, name: str) -> None:
        await device_page(client, name)

    @ui.page("/data", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def data_sets(client: Client) -> None:
        await data_sets_page(client)

    @ui.page("/data/{name}", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def data_set(client: Client, name: str) -> None:
        await data_set_page(client, name)

    @ui.page("/models", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def models(client: Client) -> None:
        await models_page(client)

    @ui.page("/models/{name}", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def model(client: Client, name: str) -> None:
        await model_page(client, name)

    @ui.page("/compare", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def compare(client: Client, a: str = "", b: str = "", space: str = "") -> None:
        await compare_page(client, a, b, space)

    @ui.page("/compare/searches", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def compare_searches(client: Client, ids: str = "") -> None:
        await compare_searches_page(client, ids)

    @ui.page("/compare/networks", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def compare_networks(client: Client, a: str = "", b: str = "") -> None:
        await compare_networks_page(client, a, b)

    @ui.page("/service", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def service(client: Client) -> None:
        await service_page(client)

    @ui.page("/submit", response_timeout=_TIMEOUT_S)
    @sessions.page
    async def submit(client: Client, supernet: str = "", device: str = "", model: str = "") -> None:
        await submit_page(client, supernet, device, model)

    @pages.exception_handler(404)
    async def unknown(request: Request, _: Exception) -> Response:
        message = f"There is nothing at {request.url.path}."
        if request.url.path.startswith("/v1/"):
            return JSONResponse(ErrorSchema(code=NotFound.code, message=message).model_dump(), 404)
        client = await sessions.admitted(request.cookies.get(COOKIE))
        if client is None:
            return RedirectResponse("/login", 303)
        with Page(Route(""), request=request) as page, page_layout(client, "Not found", "") as shell:
            shell.show_not_found(message)
        return page.build_response(request, 404)

    ui.run_with(
        app,
        title="hwnas",
        favicon=LOGO,
        dark=None,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=10.0,
    )
