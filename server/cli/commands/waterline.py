"""``nas waterline``: which layers of a candidate wait for memory."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nas.schemas.waterlines import WaterlineSchema
from server.cli import render
from server.cli.commands.decisions import candidate_of
from server.cli.device_options import SearchId
from server.cli.options import ServiceOptions, service_command
from server.dashboard import formatting


@service_command
def waterline(
    service: ServiceOptions,
    search_id: SearchId,
    candidate: Annotated[str, typer.Argument(help="A candidate by id or name.")],
    device: Annotated[str | None, typer.Option(help="A device of the search; by default its first.")] = None,
    flops: Annotated[float | None, typer.Option(min=1, help="Peak operations per second of the machine.")] = None,
    bandwidth: Annotated[float | None, typer.Option(min=1, help="Bytes per second of its memory.")] = None,
) -> None:
    """Say which layers of a candidate wait for memory on a device, and what fusing them would save.

    Without --flops and --bandwidth, by the figures that the device is known by, or by two that are fitted to the
    networks measured on it. Times are computed, not measured.

    Example: `nas waterline SEARCH calm-amber-otter --flops 2e11 --bandwidth 2e10`
    """
    with service.connect() as nas:
        arch = candidate_of(nas, search_id, candidate)
        assert arch is not None
        line = nas.waterline(search_id, arch, device=device, flops_per_s=flops, bytes_per_s=bandwidth)
    render.out(line, service.json_output, _report)


def _report(line: WaterlineSchema) -> RenderableType:
    table = Table("layer", "operation", "operations per byte", "ms at least", "bound by", box=None)
    for layer in line.layers:
        table.add_row(escape(layer.name), layer.op, f"{layer.intensity:.3g}", f"{layer.ms:.3g}", layer.bound)
    saving = sorted((b for b in line.blocks if b.saved_ms > 0), key=lambda b: -b.saved_ms)
    return Group(
        table,
        f"{formatting.significant(line.ms, 3)} ms at least; peak for {line.efficiency:.0%} of it; "
        f"{line.memory_share:.0%} in layers that wait for memory",
        escape(line.source_sentence),
        *(f"{escape(b.name)} as one kernel: {b.ms:.3g} to {b.fused_ms:.3g} ms" for b in saving),
    )
