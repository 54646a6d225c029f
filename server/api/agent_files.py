"""The device agent as this service hands it out: a wheel, and how to install it. Its code is no secret."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import PlainTextResponse

from nas.core.errors import NotFound
from server.agent_wheel import agent_wheel, install_command, wheel_name
from server.api.errors import responses

router = APIRouter(tags=["agents"])


@router.get(
    "/agent/",
    summary="How to install the agent",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def get_agent_instructions(request: Request) -> PlainTextResponse:
    """The commands that make a machine a device, with the address by which this request came."""
    address = str(request.base_url).rstrip("/")
    return PlainTextResponse(
        f"{install_command(address)}\nHWNAS_TOKEN=TOKEN nas-agent --server {address} --name NAME\n"
    )


@router.get(
    "/agent/{file}",
    summary="Download the agent",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, **responses(404)},
)
def download_agent(file: Annotated[str, Path(max_length=100)]) -> Response:
    """The wheel of this service's version, for pip."""
    if file != wheel_name():
        raise NotFound(f"no file {file!r}: expected {wheel_name()}")
    return Response(agent_wheel(), media_type="application/zip")
