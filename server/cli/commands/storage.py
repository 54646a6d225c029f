"""Commands on a service's stored data: garbage collection, checks, backup and restore."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape

from nas.schemas.service import HealthCheckSchema
from server.cli import render
from server.cli.doctor import examine, examine_service
from server.cli.local_store import opened_store
from server.cli.options import HomeOption, JsonOption, ServiceUrlOption, TokenOption
from server.cli.runtime import read_settings
from server.store.backup import back_up
from server.store.backup import restore as restore_archive


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")] = False,
    grace_hours: Annotated[float, typer.Option(min=0, help="Keep unreferenced blobs younger than this.")] = 24.0,
    home: HomeOption = None,
    json_output: JsonOption = False,
) -> None:
    """Delete checkpoints and models that no search refers to. A running service does so every hour."""
    with opened_store(home) as store:
        collected = store.collect(grace_s=3600 * grace_hours, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    text = f"{collected.removed} blobs ({collected.removed_bytes / 1e6:.1f} MB) {verb}, {collected.referenced} in use"
    render.out(asdict(collected), json_output, lambda _: text)


def doctor(
    home: HomeOption = None,
    url: ServiceUrlOption = None,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check everything the service depends on: database, storage, disk, memory, clock, Ray, tokens, noise.

    Of the service in the home folder of this machine, while it runs and while it is stopped; with the address of
    another, whether that one is ready. Exit status 1 when something failed.
    """
    if url is not None and home is None:
        title, checks = f"the service at {url}", list(examine_service(url, token))
    else:
        settings = read_settings({"home": home} if home is not None else {})
        title, checks = f"the service of this machine in {settings.home}", list(examine(settings))
    render.out(checks, json_output, lambda results: _checks(title, results))
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def backup(
    archive: Annotated[Path, typer.Argument(help="The file to write, such as hwnas.tar.gz.")],
    home: HomeOption = None,
    json_output: JsonOption = False,
) -> None:
    """Copy an embedded service, its searches and models, into one file. The service may keep running."""
    settings = read_settings({"home": home} if home is not None else {})
    manifest = back_up(settings.database, settings.blobs, archive)
    missing = f", {len(manifest['missing'])} were missing before" if manifest["missing"] else ""
    render.out(manifest, json_output, lambda m: f"{archive}: the database and {m['blobs']} blobs{missing}")


def restore(
    archive: Annotated[Path, typer.Argument(help="A file that `nas backup` wrote.")],
    home: Annotated[Path, typer.Option(help="An empty folder, or one that does not exist.")],
    json_output: JsonOption = False,
) -> None:
    """Unpack a backup into a new home and verify every byte. Then: `nas serve --home FOLDER`."""
    manifest = restore_archive(archive, home)
    render.out(manifest, json_output, lambda m: f"{home}: the database and {m['blobs']} blobs")


def _checks(subject: str, checks: list[HealthCheckSchema]) -> RenderableType:
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    table = render.grid("check", "status", "detail", title=escape(subject))
    for c in checks:
        table.add_row(c.name, f"[{colours[c.status]}]{c.status}[/]", escape(c.detail))
    return table
