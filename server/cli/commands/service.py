"""Commands that run the service or parts of it."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from server.cli.options import HomeOption, JsonOption


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", show_default="8765")] = None,
    home: HomeOption = None,
    dispatch: Annotated[
        bool | None, typer.Option("--dispatch/--no-dispatch", help="Also run searches here.", show_default="dispatch")
    ] = None,
) -> None:
    """Start the service: API, dashboard, queue and workers, in one command.

    It runs until Ctrl-C; interrupted searches continue at the next start. Settings are read from `HWNAS_...`
    environment variables, and options override them.

    Example: `nas serve --port 8000 --home /data/hwnas`
    """
    from server.cli.serve import serve as run  # sets the handlers of signals, before libraries are loaded

    options = {"host": host, "port": port, "home": home, "dispatch": dispatch}
    run({name: value for name, value in options.items() if value is not None})


def dispatch(
    home: HomeOption = None,
    supervised: Annotated[int | None, typer.Option("--supervised", hidden=True)] = None,
) -> None:
    """Run searches for a service that was started elsewhere with `nas serve --no-dispatch`.

    Both need the same database and the same blob store: see `HWNAS_DATABASE_URL` and `HWNAS_BLOBS_URL`. It runs until
    Ctrl-C; its searches then continue elsewhere.
    """
    from server.cli.dispatch import dispatch as run

    run({"home": home} if home is not None else {}, supervised=supervised)


def demo(
    json_output: JsonOption = False,
    home: HomeOption = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535, show_default="8765, or a free one")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", hidden=True)] = False,
) -> None:
    """The whole way in minutes: this machine as a device, a search on digits, its front, a model that runs alone.

    It starts the service and stops it at the end; `nas serve` shows the search afterwards. A service that runs on the
    same home already is used and left running.
    """
    from server.cli.demo import run_demo

    result = run_demo(home, port, quick=quick)
    if json_output:
        typer.echo(result.model_dump_json())


def version(json_output: JsonOption = False) -> None:
    """Print the version."""
    from server.cli import render

    render.out({"version": version_of("hwnas")}, json_output, lambda v: f"hwnas {v['version']}")
