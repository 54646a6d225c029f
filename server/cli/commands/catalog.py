"""Commands that list what specs can name: predictors, search spaces, strategies and tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli import render
from server.cli.options import ServiceOptions, service_command


@service_command
def predictors(
    service: ServiceOptions,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
) -> None:
    """List the cards of latency predictors."""
    with service.connect() as nas:
        render.out(nas.predictors(device), service.json_output, render.predictors)


@service_command
def agents(service: ServiceOptions) -> None:
    """List the agents of devices elsewhere."""
    with service.connect() as nas:
        render.out(nas.agents(), service.json_output, render.agents)


@service_command
def spaces(service: ServiceOptions) -> None:
    """List search spaces."""
    with service.connect() as nas:
        render.out(nas.spaces(), service.json_output, render.spaces)


@service_command
def strategies(service: ServiceOptions) -> None:
    """List strategies and their parameters."""
    with service.connect() as nas:
        render.out(nas.strategies(), service.json_output, render.strategies)


@service_command
def tasks(service: ServiceOptions) -> None:
    """List tasks: what networks learn, and by what they are judged."""
    with service.connect() as nas:
        render.out(nas.tasks(), service.json_output, render.tasks)


@service_command
def runtimes(service: ServiceOptions) -> None:
    """List what can run networks on a device."""
    with service.connect() as nas:
        render.out(nas.runtimes(), service.json_output, render.runtimes)
