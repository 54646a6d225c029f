"""Commands that print the front of a search and download its models."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from nas.core.device import Status
from nas.core.events import Origin
from nas.core.metrics import OBJECTIVES
from server.cli import render
from server.cli.device_options import BoundMs, SearchId
from server.cli.downloads import choose_artifacts, file_name
from server.cli.options import CursorOption, ServiceOptions, service_command

_AXES = f"Axes: 2 to 4 of {','.join(OBJECTIVES)}."


@service_command
def front(
    service: ServiceOptions,
    search_id: SearchId,
    bound_ms: BoundMs = None,
    objectives: Annotated[str | None, typer.Option(help=_AXES)] = None,
    device: Annotated[
        str | None, typer.Option(help="Latencies on this device of the fleet, or predicted for any other device.")
    ] = None,
) -> None:
    """Print the Pareto front of a search, beside that of random search at the same budget.

    Example: `nas front SEARCH --bound-ms 0.2 --objectives accuracy,latency,params`
    """
    axes = [name.strip() for name in objectives.split(",")] if objectives else None
    with service.connect() as nas:
        conclusions = nas.search(search_id).conclusions
        schema = nas.front(search_id, device, bound_ms, axes)
    render.out(schema, service.json_output, lambda f: render.front(f, conclusions))


@service_command
def candidates(
    service: ServiceOptions,
    search_id: SearchId,
    origin: Annotated[Origin | None, typer.Option(help="Of the search, its random baseline or references.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only of this status of verification.")] = None,
    order: Annotated[
        str | None, typer.Option(help="A metric; with - in front, descending. Default: the best estimates first.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="With the latencies on this device of the fleet.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of candidates.")] = 50,
    cursor: CursorOption = None,
) -> None:
    """List the candidates that a search evaluated, the best first.

    Example: `nas candidates SEARCH --order predicted_ms --status verified`
    """
    with service.connect() as nas:
        page = nas.candidates(search_id, origin, status, order, limit, cursor, device)
    render.out(page.items, service.json_output, render.candidates)
    filters = {"--origin": origin, "--status": status, "--device": device}
    words = [word for option, value in filters.items() if value is not None for word in (option, value)]
    words += [f"--order={order}"] if order is not None else []
    words = ["nas", "candidates", search_id, *words, "--limit", str(limit)]
    render.more_pages(shlex.join(words), page.next)


@service_command
def pull(
    service: ServiceOptions,
    search_id: SearchId,
    arch: Annotated[
        str, typer.Argument(help="A candidate by id or name, `best` (quality), `fastest`, `recommended`, or `all`.")
    ] = "best",
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")] = Path(),
) -> None:
    """Download exported models. Each zip holds ONNX models, weights, manifest, card and a runner.

    Example: `nas pull SEARCH fastest --to models`
    """
    with service.connect() as nas:
        selection = choose_artifacts(nas, search_id, arch)
        if selection.note:
            typer.echo(f"nas: {selection.note}", err=True)
        paths = [nas.download(a, to / file_name(a)) for a in selection.artifacts]
    render.out([str(p) for p in paths], service.json_output, lambda names: escape("\n".join(names)))
