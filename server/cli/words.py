"""Options that many commands share, and the way to the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nas.client import DEFAULT_URL, Client

_URL_HELP = f"Address of the service; without it HWNAS_URL, or {DEFAULT_URL}."
Url = Annotated[str, typer.Option("--url", help=_URL_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]
Home = Annotated[Path | None, typer.Option(help="Folder for database and models.", show_default="~/.hwnas")]


def connect(url: str) -> Client:
    """A client with the token in the environment, if there is one."""
    return Client(url, token=os.environ.get("HWNAS_TOKEN"))
