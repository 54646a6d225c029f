"""Commands that list what specs can name: predictors, search spaces and strategies."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.defaults import DEFAULT_URL
from server.cli import render
from server.cli.options import JsonOption, TokenOption, UrlOption, connect


def predictors(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """List the cards of latency predictors."""
    with connect(url, token) as nas:
        render.out(nas.predictors(device), json_output, render.predictors)


def agents(url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False) -> None:
    """List the agents of devices elsewhere."""
    with connect(url, token) as nas:
        render.out(nas.agents(), json_output, render.agents)


def spaces(url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False) -> None:
    """List search spaces."""
    with connect(url, token) as nas:
        render.out(nas.spaces(), json_output, render.spaces)


def strategies(url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False) -> None:
    """List strategies and their parameters."""
    with connect(url, token) as nas:
        render.out(nas.strategies(), json_output, render.strategies)
