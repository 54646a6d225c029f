"""Commands that show and control searches."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.core.lifecycle import JobStatus
from nas.defaults import DEFAULT_URL
from nas.schemas.searches import SearchSchema
from server.cli import render
from server.cli.device_options import SearchId
from server.cli.following import follow_and_print
from server.cli.lazy import FAILED
from server.cli.options import CursorOption, JsonOption, TokenOption, UrlOption, connect


def list_searches(
    status: Annotated[JobStatus | None, typer.Option(help="Only searches of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number of searches.")] = 50,
    cursor: CursorOption = None,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """List searches, newest first."""
    with connect(url, token) as nas:
        page = nas.searches(status, limit, cursor)
    render.out(page.items, json_output, render.searches)
    words = ["nas", "list", *(["--status", status] if status is not None else []), "--limit", str(limit)]
    render.more_pages(" ".join(words), page.next)


def show(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Show one search with its stages."""
    with connect(url, token) as nas:
        render.out(nas.search(search_id), json_output, render.search)


def watch(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Follow a search until it ends, then print its front. Ctrl-C stops watching, not the search."""
    with connect(url, token) as nas:
        follow_and_print(nas, search_id, json_output)


def pause(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Pause a search after its next stored result, which frees its worker. `nas resume` continues it."""
    with connect(url, token) as nas:
        render.out(nas.pause(search_id), json_output, _status_line)


def resume(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Continue a paused search where it was paused."""
    with connect(url, token) as nas:
        render.out(nas.resume(search_id), json_output, _status_line)


def cancel(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Cancel a search now. Its results remain."""
    with connect(url, token) as nas:
        render.out(nas.cancel(search_id), json_output, _status_line)


def retry(
    search_id: SearchId, url: UrlOption = DEFAULT_URL, token: TokenOption = None, json_output: JsonOption = False
) -> None:
    """Continue a failed, cancelled or quarantined search from its last checkpoint."""
    with connect(url, token) as nas:
        render.out(nas.retry(search_id), json_output, _status_line)


def priority(
    search_id: SearchId,
    value: Annotated[int, typer.Argument(help="Higher runs first among your searches.", min=-100, max=100)],
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
    json_output: JsonOption = False,
) -> None:
    """Set a search's priority among those of its owner."""
    with connect(url, token) as nas:
        render.out(nas.set_priority(search_id, value), json_output, lambda s: f"search {s.id}: priority {s.priority}")


def delete(
    search_id: SearchId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    url: UrlOption = DEFAULT_URL,
    token: TokenOption = None,
) -> None:
    """Delete a search that is paused or has ended, with all its results. This cannot be undone."""
    with connect(url, token) as nas:
        name = nas.search(search_id).spec.name
        if not yes and not typer.confirm(f"Delete {name} ({search_id}) with all its results?"):
            raise typer.Exit(FAILED)
        nas.delete(search_id)
    typer.echo(f"search {search_id}: deleted")


def _status_line(search: SearchSchema) -> str:
    return f"search {search.id}: {search.status}"
