"""Commands on access: the caller's identity, quotas and the audit log."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.defaults import DEFAULT_URL
from nas.schemas.administration import AuditRecordSchema, PrincipalSchema, QuotaLimits, QuotaSchema
from server.cli import render
from server.cli.options import CursorOption, JsonOption, TokenOption, UrlOption, connect

quotas_app = typer.Typer(add_completion=False, help="How much each owner may queue, run and use.")


@quotas_app.callback(invoke_without_command=True)
def quotas(
    ctx: typer.Context, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """List limits and use of all owners; `set` changes them."""
    if ctx.invoked_subcommand is None:
        list_quotas(url, token, json_output)


@quotas_app.command("list")
def list_quotas(url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False) -> None:
    """List limits and use of all owners; `*` holds the default limits."""
    with connect(url, token) as nas:
        render.out(nas.quotas(), json_output, _quotas)


@quotas_app.command("set")
def set_quota(
    owner: Annotated[str, typer.Argument(help="An owner, or `*` for the default limits.")],
    max_queued: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    max_running: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, show_default="no limit")] = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """Set all three limits of an owner; an omitted limit is removed."""
    body = QuotaLimits(max_queued=max_queued, max_running=max_running, gpu_hours=gpu_hours)
    with connect(url, token) as nas:
        render.out(nas.set_quota(owner, body), json_output, lambda q: _quotas([q]))


def me(url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False) -> None:
    """Print who the service takes you for, your scopes and your quota."""

    def draw(m: PrincipalSchema) -> RenderableType:
        how = f"token {m.token}" if m.token is not None else "no token: a local user"
        return Group(f"[bold]{escape(m.owner)}[/] ({how}) may: {', '.join(m.scopes)}", _quotas([m.quota]))

    with connect(url, token) as nas:
        render.out(nas.me(), json_output, draw)


def audit(
    owner: Annotated[str | None, typer.Option(help="Only actions of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: CursorOption = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """Print the audit log, newest first."""
    with connect(url, token) as nas:
        page = nas.audit(limit=limit, cursor=cursor, owner=owner)
    render.out(page.items, json_output, _audit)
    words = ["nas", "audit", *(["--owner", owner] if owner is not None else []), "--limit", str(limit)]
    render.more_pages(shlex.join(words), page.next)


def _quotas(items: list[QuotaSchema]) -> RenderableType:
    table = render.grid("owner", "queued", "running", "GPU-hours")
    for q in items:
        table.add_row(
            escape(q.owner),
            _of(q.queued, q.max_queued),
            _of(q.running, q.max_running),
            _of(round(q.gpu_hours_used, 2), q.gpu_hours),
        )
    return table


def _of(used: float, limit: float | None) -> str:
    return f"{used:g}" if limit is None else f"{used:g} of {limit:g}"


def _audit(items: list[AuditRecordSchema]) -> RenderableType:
    table = render.grid("when (UTC)", "who", "did", "to", "from")
    for a in items:
        caller = a.owner if a.token is None else f"{a.owner} ({a.token})"
        table.add_row(f"{a.at:%Y-%m-%d %H:%M:%S}", escape(caller), a.action, escape(a.target), a.address or "")
    return table
