"""Commands on API tokens. Without the address of a service, they open the database of the home folder directly, so that
the first token needs no running service."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

import typer
from rich.console import RenderableType
from rich.markup import escape

from nas.core.access import SCOPES, Scope
from nas.core.errors import InvalidInput
from nas.schemas.administration import TokenSchema
from server.cli import render
from server.cli.options import HomeOption, JsonOption, ServiceUrlOption, TokenOption
from server.cli.token_registry import open_token_registry

tokens_app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="API tokens: who may use the service, and for what."
)
_DURATION = re.compile(r"(\d{1,5})([dhw])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@tokens_app.command("create")
def create_token(
    owner: Annotated[str, typer.Option(help="The owner it acts for.")],
    name: Annotated[str, typer.Option(help="A name for people.")],
    scope: Annotated[list[str], typer.Option(help=f"Scope; may be repeated: {', '.join(SCOPES)}.")],
    device: Annotated[
        str | None, typer.Option(help="Of the scope agent, which stands alone: the device that the token is for.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="After 12h, 30d or 8w; without it, never.")] = None,
    home: HomeOption = None,
    url: ServiceUrlOption = None,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """Create a token and print it, once: only its hash is stored.

    Examples:

    - `nas tokens create --owner ada --name laptop --scope read --scope submit --expires 90d`
    - `nas tokens create --owner ada --name board --scope agent --device pi`: for `nas-agent --name pi` and nothing else
    """
    expires_at = _expiry(expires)
    with open_token_registry(home, url, token, create=True) as tokens:
        created = tokens.create(owner, name, cast(list[Scope], scope), expires_at, device)
    render.out(created, json_output, lambda token: token.secret)


@tokens_app.command("list")
def list_tokens(
    home: HomeOption = None,
    url: ServiceUrlOption = None,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """List all tokens, newest first."""
    with open_token_registry(home, url, token) as tokens:
        items = tokens.list()
    render.out(items, json_output, _tokens)


@tokens_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="Its id, as `nas tokens list` shows it.", metavar="TOKEN")],
    home: HomeOption = None,
    url: ServiceUrlOption = None,
    token: TokenOption = None,
) -> None:
    """Revoke a token at once. This cannot be undone."""
    with open_token_registry(home, url, token) as tokens:
        tokens.revoke(token_id)
    typer.echo(f"token {token_id}: revoked")


def _expiry(expires: str | None) -> datetime | None:
    if expires is None:
        return None
    match = _DURATION.fullmatch(expires)
    if match is None:
        raise InvalidInput(f"--expires: expected a time such as 12h, 30d or 8w, got {expires!r}")
    return datetime.now(UTC) + int(match[1]) * _UNITS[match[2]]


def _tokens(items: list[TokenSchema]) -> RenderableType:
    table = render.grid("token", "owner", "name", "scopes", "expires", "last used", "state")
    for t in items:
        table.add_row(
            t.id,
            escape(t.owner),
            escape(t.name),
            ", ".join(t.scopes) + (f" of {t.device}" if t.device is not None else ""),
            f"{t.expires_at:%Y-%m-%d}" if t.expires_at else "never",
            f"{t.last_used_at:%Y-%m-%d %H:%M}" if t.last_used_at else "never",
            "revoked"
            if t.revoked_at
            else "valid"
            if not t.expires_at or t.expires_at.timestamp() > time.time()
            else "expired",
        )
    return table
