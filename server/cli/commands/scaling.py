"""``nas scale``: a candidate scaled up or down to another bound."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.core.errors import InvalidInput
from nas.explorers.compound_scaling import FAST
from nas.schemas.scaling import ScaledNetworkSchema
from server.cli import render
from server.cli.commands.decisions import candidate_of
from server.cli.device_options import SearchId
from server.cli.options import ServiceOptions, service_command
from server.dashboard import formatting


@service_command
def scale(
    service: ServiceOptions,
    search_id: SearchId,
    candidate: Annotated[str, typer.Argument(help="A candidate by id or name.")],
    latency: Annotated[float | None, typer.Option(min=0, help="At most this latency in ms.")] = None,
    macs: Annotated[float | None, typer.Option(min=1, help="At most so many MACs.")] = None,
    params: Annotated[float | None, typer.Option(min=1, help="At most so many parameters.")] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="How much of it is width; 1/3: all alike.")] = FAST,
    device: Annotated[str | None, typer.Option(help="A device of the search; by default its first.")] = None,
) -> None:
    """Scale a candidate up or down to another bound, within its space.

    Depth, width and resolution are scaled together, width most. What it costs is predicted with its 95 % upper bound;
    how good it is is not known before it is trained.

    Example: `nas scale SEARCH calm-amber-otter --latency 1.5`
    """
    limits = {"latency": latency, "macs": macs, "params": params}
    bounds = [(name, limit) for name, limit in limits.items() if limit is not None]
    if len(bounds) != 1:
        raise InvalidInput(f"expected one of --latency, --macs and --params, got {len(bounds)}")
    [(bound, limit)] = bounds
    with service.connect() as nas:
        arch = candidate_of(nas, search_id, candidate)
        assert arch is not None
        render.out(nas.scaled(search_id, arch, limit, bound, alpha=alpha, device=device), service.json_output, _report)


def _report(network: ScaledNetworkSchema) -> RenderableType:
    lines = [
        f"[bold]{network.arch}[/]  {formatting.count(network.macs)} MACs ({network.macs_factor:.3g} times as many; "
        f"{network.factor:.3g} before rounding), {formatting.count(network.params)} parameters"
    ]
    if network.predicted_ms is not None and network.upper_ms is not None:
        doubt = ", outside the domain of the predictor" if network.extrapolated else ""
        lines.append(
            f"predicted {formatting.significant(network.predicted_ms, 3)} ms on {escape(network.device)}, "
            f"95 % upper bound {formatting.significant(network.upper_ms, 3)} ms{doubt}"
        )
    if network.at_end:
        lines.append(f"the space ends for {', '.join(map(escape, network.at_end))}")
    lines.append("Its quality is not known. To have it scored and measured beside a search, add to the spec:")
    lines.append(escape(f"references: [{network.reference}]"))
    return Group(*lines)
