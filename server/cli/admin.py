"""Tokens, quotas and the audit trail. Tokens are made on the database directly, so the first needs no server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.client import DEFAULT_URL
from nas.core.access import LOCAL, SCOPES, Scope
from nas.core.errors import InvalidInput
from nas.schemas.administration import AuditRecordSchema, PrincipalSchema, QuotaBody, QuotaSchema, TokenSchema
from nas.schemas.service import HealthCheckSchema
from server.cli import render
from server.cli.start import prepare_home, read_settings
from server.cli.words import Home, Json, Token, Url, connect

if TYPE_CHECKING:
    from server.store.store import Store

tokens_app = typer.Typer(no_args_is_help=True, help="API tokens: who is let in, and for what.")
quotas_app = typer.Typer(help="How much each owner may queue, run and use.")
_DAYS = re.compile(r"(\d{1,5})([dhw])")
_SECONDS = {"h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@tokens_app.command("create")
def create_token(
    owner: Annotated[str, typer.Option(help="Whose searches it stands for.")],
    name: Annotated[str, typer.Option(help="What it is for, for people.")],
    scope: Annotated[list[str], typer.Option(help=f"What it allows; repeat for more of {', '.join(SCOPES)}.")],
    expires: Annotated[str | None, typer.Option(help="After 12h, 30d or 8w; without it, never.")] = None,
    home: Home = None,
    json_output: Json = False,
) -> None:
    """Make a token and print it, once: only its hash is kept.

    Example: `nas tokens create --owner ada --name laptop --scope read --scope submit --expires 90d`
    """
    with _store(home) as store:
        view, secret = store.tokens.create(owner, name, cast(list[Scope], scope), _end(expires), LOCAL)
    record = {**view.model_dump(mode="json"), "secret": secret}
    render.out(record, json_output, lambda r: r["secret"])


@tokens_app.command("list")
def list_tokens(home: Home = None, json_output: Json = False) -> None:
    """All tokens, newest first."""
    with _store(home) as store:
        render.out(store.tokens.list(), json_output, _tokens)


@tokens_app.command("revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="Its id, as `nas tokens list` shows it.", metavar="TOKEN")],
    home: Home = None,
) -> None:
    """Make a token worthless, at once and for good."""
    with _store(home) as store:
        store.tokens.revoke(token_id, LOCAL)
    typer.echo(f"token {token_id}: revoked")


@quotas_app.callback(invoke_without_command=True)
def quotas(ctx: typer.Context, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Limits and use of all owners; `set` changes them."""
    if ctx.invoked_subcommand is None:
        list_quotas(url, token, json_output)


@quotas_app.command("list")
def list_quotas(url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Limits and use of all owners; `*` holds the limits of everybody who has none of their own."""
    with connect(url, token) as nas:
        render.out(nas.quotas(), json_output, _quotas)


@quotas_app.command("set")
def set_quota(
    owner: Annotated[str, typer.Argument(help="An owner, or `*` for all that have no limits of their own.")],
    max_queued: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    max_running: Annotated[int | None, typer.Option(min=0, show_default="no limit")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, show_default="no limit")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Set an owner's limits, all three: one that is not given is lifted."""
    body = QuotaBody(max_queued=max_queued, max_running=max_running, gpu_hours=gpu_hours)
    with connect(url, token) as nas:
        render.out(nas.set_quota(owner, body), json_output, lambda q: _quotas([q]))


def me(url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Whom the service takes you for, what you may do, and your quota."""

    def draw(m: PrincipalSchema) -> RenderableType:
        how = f"token {m.token}" if m.token is not None else "no token: you sit at the machine"
        return Group(f"[bold]{escape(m.owner)}[/] ({how}) may: {', '.join(m.scopes)}", _quotas([m.quota]))

    with connect(url, token) as nas:
        render.out(nas.me(), json_output, draw)


def audit(
    owner: Annotated[str | None, typer.Option(help="Only what this owner did.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Who did what, newest first."""
    with connect(url, token) as nas:
        render.out(nas.audit(limit=limit, owner=owner).items, json_output, _audit)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace_hours: Annotated[float, typer.Option(min=0, help="Younger blobs stay, whoever points at them.")] = 24.0,
    home: Home = None,
    json_output: Json = False,
) -> None:
    """Remove checkpoints and models that no search points at any more. A running service does so every hour."""
    with _store(home) as store:
        done = store.collect(grace_s=3600 * grace_hours, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    text = f"{done.removed} blobs ({done.removed_bytes / 1e6:.1f} MB) {verb}, {done.referenced} in use"
    render.out(asdict(done), json_output, lambda _: text)


def doctor(home: Home = None, json_output: Json = False) -> None:
    """Look at everything the service stands on: database, storage, disk, memory, clock, Ray, tokens, noise.

    Works while the service runs and while it is stopped. Exit status 1 when something failed.
    """
    from server.cli.doctor import examine

    checks = list(examine(read_settings({"home": home} if home is not None else {})))
    render.out(checks, json_output, _checks)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def backup(
    archive: Annotated[Path, typer.Argument(help="The file to write, such as hwnas.tar.gz.")],
    home: Home = None,
    json_output: Json = False,
) -> None:
    """Copy an embedded service, its searches and models, into one file. It may go on running meanwhile."""
    from server.store.backup import back_up  # as below: the database takes a second to import, and --help needs none

    settings = read_settings({"home": home} if home is not None else {})
    manifest = back_up(settings.database, settings.blobs, archive)
    lost = f", {len(manifest['missing'])} were lost before" if manifest["missing"] else ""
    render.out(manifest, json_output, lambda m: f"{archive}: the database and {m['blobs']} blobs{lost}")


def restore(
    archive: Annotated[Path, typer.Argument(help="A file that `nas backup` wrote.")],
    home: Annotated[Path, typer.Option(help="An empty folder, or one that is not there yet.")],
    json_output: Json = False,
) -> None:
    """Unpack a backup into a new home, every byte checked. Then: `nas serve --home FOLDER`."""
    from server.store.backup import restore as unpack

    manifest = unpack(archive, home)
    render.out(manifest, json_output, lambda m: f"{home}: the database and {m['blobs']} blobs")


def _checks(checks: list[HealthCheckSchema]) -> RenderableType:
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    table = render.grid("check", "status", "detail")
    for c in checks:
        table.add_row(c.name, f"[{colours[c.status]}]{c.status}[/]", escape(c.detail))
    return table


@contextmanager
def _store(home: Path | None) -> Iterator[Store]:
    from server.store.store import open_store

    settings = read_settings({"home": home} if home is not None else {})
    prepare_home(settings)
    with open_store(settings.database, settings.blobs) as store:
        yield store


def _end(expires: str | None) -> float | None:
    if expires is None:
        return None
    match = _DAYS.fullmatch(expires)
    if match is None:
        raise InvalidInput(f"--expires: expected a time such as 12h, 30d or 8w, got {expires!r}")
    return time.time() + int(match[1]) * _SECONDS[match[2]]


def _tokens(items: list[TokenSchema]) -> RenderableType:
    table = render.grid("token", "owner", "name", "scopes", "expires", "last used", "state")
    for t in items:
        table.add_row(
            t.id,
            escape(t.owner),
            escape(t.name),
            ", ".join(t.scopes),
            f"{t.expires_at:%Y-%m-%d}" if t.expires_at else "never",
            f"{t.last_used_at:%Y-%m-%d %H:%M}" if t.last_used_at else "never",
            "revoked"
            if t.revoked_at
            else "valid"
            if not t.expires_at or t.expires_at.timestamp() > time.time()
            else "expired",
        )
    return table


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
        who = a.owner if a.token is None else f"{a.owner} ({a.token})"
        table.add_row(f"{a.at:%Y-%m-%d %H:%M:%S}", escape(who), a.action, escape(a.target), a.address or "")
    return table
