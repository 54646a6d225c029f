"""Commands on the onboardings of devices. `nas devices add` starts one."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType
from rich.markup import escape

from nas.core.lifecycle import JobStatus
from nas.schemas.devices import OnboardingSchema
from server.cli import render
from server.cli.lazy import FAILED
from server.cli.options import Connection, CursorOption, ServiceOptions, service_command

onboardings_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Onboardings of devices: follow, pause, resume, cancel, retry, prioritise and delete them.",
)
OnboardingId = Annotated[
    str, typer.Argument(help="The onboarding: its id, the beginning of it, or its name.", metavar="ONBOARDING")
]


@onboardings_app.command("list")
@service_command
def list_onboardings(
    service: ServiceOptions,
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Maximum number of onboardings.")] = 50,
    cursor: CursorOption = None,
) -> None:
    """List onboardings, newest first."""
    with service.connect() as nas:
        page = nas.onboardings(device, status, limit, cursor)
    render.out(page.items, service.json_output, _onboardings)
    filters = [*(["--device", device] if device else []), *(["--status", status] if status else [])]
    render.more_pages(" ".join(["nas onboardings list", *filters, "--limit", str(limit)]), page.next)


@onboardings_app.command("pause")
@service_command
def pause(
    service: ServiceOptions,
    onboarding_id: OnboardingId,
) -> None:
    """Pause an onboarding after its next stored result, which frees its worker."""
    with service.connect() as nas:
        render.out(nas.pause_onboarding(onboarding_id), service.json_output, _status_line)


@onboardings_app.command("resume")
@service_command
def resume(
    service: ServiceOptions,
    onboarding_id: OnboardingId,
) -> None:
    """Continue a paused onboarding where it was paused."""
    with service.connect() as nas:
        render.out(nas.resume_onboarding(onboarding_id), service.json_output, _status_line)


@onboardings_app.command("cancel")
@service_command
def cancel(
    service: ServiceOptions,
    onboarding_id: OnboardingId,
) -> None:
    """Cancel an onboarding now. The predictors of earlier ones remain in use."""
    with service.connect() as nas:
        render.out(nas.cancel_onboarding(onboarding_id), service.json_output, _status_line)


@onboardings_app.command("retry")
@service_command
def retry(
    service: ServiceOptions,
    onboarding_id: OnboardingId,
) -> None:
    """Continue a failed, cancelled or quarantined onboarding from its last stored result."""
    with service.connect() as nas:
        render.out(nas.retry_onboarding(onboarding_id), service.json_output, _status_line)


@onboardings_app.command("priority")
@service_command
def priority(
    service: ServiceOptions,
    onboarding_id: OnboardingId,
    value: Annotated[int, typer.Argument(help="Higher runs first among your jobs.", min=-100, max=100)],
) -> None:
    """Set an onboarding's priority among the jobs of its owner."""
    with service.connect() as nas:
        onboarding = nas.set_onboarding_priority(onboarding_id, value)
    render.out(onboarding, service.json_output, lambda o: f"onboarding {o.id}: priority {o.priority}")


@onboardings_app.command("delete")
@service_command
def delete(
    service: Connection,
    onboarding_id: OnboardingId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete an onboarding that is paused or has ended and made no predictor; with a device's only one, the device."""
    with service.connect() as nas:
        device = nas.onboarding(onboarding_id).device
        if not yes and not typer.confirm(f"Delete onboarding {onboarding_id} of {device}?"):
            raise typer.Exit(FAILED)
        nas.delete_onboarding(onboarding_id)
    typer.echo(f"onboarding {onboarding_id}: deleted")


def _onboardings(items: list[OnboardingSchema]) -> RenderableType:
    if not items:
        return "No onboardings yet. Begin with: nas devices add this-machine"
    table = render.grid("id", "device", "space", "source", "owner", "status", "stage", "waiting for")
    for o in items:
        stage = next((s.name for s in o.stages if s.status == "running"), "")
        table.add_row(
            o.id, o.device, o.spec.space.name, o.spec.source, o.owner, o.status, stage, escape(o.waiting or "")
        )
    return table


def _status_line(onboarding: OnboardingSchema) -> str:
    return f"onboarding {onboarding.id} of {onboarding.device}: {onboarding.status}"
