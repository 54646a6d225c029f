"""Commands on access: the caller's identity, quotas and the audit log."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.schemas.administration import AuditRecordSchema, PrincipalSchema, QuotaLimits, QuotaSchema
from server.cli import render
from server.cli.options import CursorOption, ServiceOptions, service_command

quotas_app = typer.Typer(add_completion=False, help="How much each owner may queue, run and use.")


@quotas_app.callback(invoke_without_command=True)
@service_command
def quotas(service: ServiceOptions, ctx: typer.Context) -> None:
    """List limits and use of all owners; `set` changes them."""
    if ctx.invoked_subcommand is None:
        _print_quotas(service)


@quotas_app.command("list")
@service_command
def list_quotas(service: ServiceOptions) -> None:
    """List limits and use of all owners; `*` holds the default limits."""
    _print_quotas(service)


def _print_quotas(service: ServiceOptions) -> None:
    with service.connect() as nas:
        render.out(nas.quotas(), service.json_output, _quotas)


@quotas_app.command("set")
@service_command
def set_quota(
    service: ServiceOptions,
    owner: Annotated[str, typer.Argument(help="An owner, or `*` for the default limits.")],
    max_queued: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    max_running: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, show_default="no limit")] = None,
) -> None:
    """Set all three limits of an owner; an omitted limit is removed."""
    body = QuotaLimits(max_queued=max_queued, max_running=max_running, gpu_hours=gpu_hours)
    with service.connect() as nas:
        render.out(nas.set_quota(owner, body), service.json_output, lambda q: _quotas([q]))


@service_command
def me(service: ServiceOptions) -> None:
    """Print who the service takes you for, your scopes and your quota."""

    def draw(m: PrincipalSchema) -> RenderableType:
        how = f"token {m.token}" if m.token is not None else "no token: a local user"
        return Group(f"[bold]{escape(m.owner)}[/] ({how}) may: {', '.join(m.scopes)}", _quotas([m.quota]))

    with service.connect() as nas:
        render.out(nas.me(), service.json_output, draw)


@service_command
def audit(
    service: ServiceOptions,
    owner: Annotated[str | None, typer.Option(help="Only actions of this owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: CursorOption = None,
) -> None:
    """Print the audit log, newest first."""
    with service.connect() as nas:
        page = nas.audit(limit=limit, cursor=cursor, owner=owner)
    render.out(page.items, service.json_output, _audit)
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
