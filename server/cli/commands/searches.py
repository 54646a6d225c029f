"""Commands that show and control searches."""

from __future__ import annotations

import webbrowser
from typing import Annotated
from urllib.parse import quote

import typer

from nas.client import Client
from nas.core.lifecycle import JobStatus
from nas.schemas.searches import SearchSchema
from server.cli import naming, render
from server.cli.device_options import SearchId
from server.cli.following import follow_and_print
from server.cli.lazy import FAILED
from server.cli.options import Connection, CursorOption, ServiceOptions, service_command


@service_command
def list_searches(
    service: ServiceOptions,
    status: Annotated[JobStatus | None, typer.Option(help="Only searches of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number of searches.")] = 50,
    cursor: CursorOption = None,
) -> None:
    """List searches, newest first."""
    with service.connect() as nas:
        page = nas.searches(status, limit, cursor)
    render.out(page.items, service.json_output, render.searches)
    words = ["nas", "list", *(["--status", status] if status is not None else []), "--limit", str(limit)]
    render.more_pages(" ".join(words), page.next)


@service_command
def show(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Show one search with its stages."""
    with service.connect() as nas:
        render.out(nas.search(search_id), service.json_output, render.search)


@service_command
def watch(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Follow a search until it ends, then print its front. Ctrl-C stops watching, not the search."""
    with service.connect() as nas:
        follow_and_print(nas, search_id, service.json_output)


@service_command
def pause(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Pause a search after its next stored result, which frees its worker. `nas resume` continues it."""
    with service.connect() as nas:
        render.out(nas.pause(search_id), service.json_output, _status_line)


@service_command
def resume(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Continue a paused search where it was paused."""
    with service.connect() as nas:
        render.out(nas.resume(search_id), service.json_output, _status_line)


@service_command
def cancel(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Cancel a search now. Its results remain."""
    with service.connect() as nas:
        render.out(nas.cancel(search_id), service.json_output, _status_line)


@service_command
def retry(
    service: ServiceOptions,
    search_id: SearchId,
) -> None:
    """Continue a failed, cancelled or quarantined search from its last checkpoint."""
    with service.connect() as nas:
        render.out(nas.retry(search_id), service.json_output, _status_line)


@service_command
def priority(
    service: ServiceOptions,
    search_id: SearchId,
    value: Annotated[int, typer.Argument(help="Higher runs first among your searches.", min=-100, max=100)],
) -> None:
    """Set a search's priority among those of its owner."""
    with service.connect() as nas:
        render.out(
            nas.set_priority(search_id, value), service.json_output, lambda s: f"search {s.id}: priority {s.priority}"
        )


@service_command
def delete(
    service: Connection,
    search_id: SearchId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a search that is paused or has ended, with all its results. This cannot be undone."""
    with service.connect() as nas:
        name = nas.search(search_id).spec.name
        if not yes and not typer.confirm(f"Delete {name} ({search_id}) with all its results?"):
            raise typer.Exit(FAILED)
        nas.delete(search_id)
    typer.echo(f"search {search_id}: deleted")


def _status_line(search: SearchSchema) -> str:
    return f"search {search.id}: {search.status}"


@service_command
def open_page(
    service: ServiceOptions,
    name: Annotated[
        str | None, typer.Argument(help="A search by id or name, or a device; without one, the list of searches.")
    ] = None,
) -> None:
    """Open a search, a device or the dashboard in a browser.

    Example: `nas open calm-amber-otter`
    """
    with service.connect() as nas:
        path = "/" if name is None else _page_of(nas, name)
    address = f"{service.url.rstrip('/')}{path}"
    render.out({"url": address}, service.json_output, lambda page: page["url"])
    if not service.json_output:
        webbrowser.open(address)


def _page_of(nas: Client, name: str) -> str:
    """The page of a search, or else of a device. Raises NotFound or InvalidInput."""
    if any(device.name == name for device in nas.devices()):
        return f"/devices/{quote(name)}"
    return f"/searches/{nas.search(naming.search_id(nas, name)).id}"
