"""Options that several commands share, and the connection to the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.client import Client
from nas.defaults import DEFAULT_URL

_URL_HELP = f"Address of the service; without it HWNAS_URL, or {DEFAULT_URL}."
_TOKEN_HELP = "API token; without it HWNAS_TOKEN, which the list of processes does not show."
UrlOption = Annotated[str, typer.Option("--url", help=_URL_HELP, show_default=False)]
TokenOption = Annotated[str | None, typer.Option("--token", help=_TOKEN_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]
CursorOption = Annotated[str | None, typer.Option(help="Where the page begins, as the page before it said.")]
KeyOption = Annotated[
    str | None, typer.Option(help="Idempotency key: the same key submits once. Without it, each call has its own.")
]
HomeOption = Annotated[Path | None, typer.Option(help="Folder for database and models.", show_default="~/.hwnas")]


def connect(url: str, token: str | None) -> Client:
    """A client of the service, authenticated by ``token`` if there is one."""
    return Client(url, token=token or None)
