"""The intake report of a user's model on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nas.core.listing import first_names
from nas.models.graph import TensorShape
from nas.models.intake import IntakeReport
from server.cli import render


def draw_report(name: str, report: IntakeReport) -> RenderableType:
    """A line for each fact, and a table each of what may be narrowed, skipped, must stay, and is not known. ``name``:
    the model's."""
    parts: list[RenderableType] = [_summary(name, report)]
    if report.groups:
        parts += ["", _groups(report)]
    if report.blocks:
        parts += ["", _blocks(report)]
    if report.fixed:
        parts += ["", _fixed(report)]
    if report.opaque:
        parts += ["", _opaque(report)]
    return Group(*parts)


def _summary(name: str, report: IntakeReport) -> str:
    inputs = ", ".join(f"{escape(value)} {sizes(shape)}" for value, shape in report.inputs)
    outputs = ", ".join(sizes(shape) for shape in report.outputs)
    batch = "any number of images at once" if report.any_batch else "only as many images at once as in its example"
    return "\n".join(
        (
            f"[bold]{escape(name)}[/]: {report.parameters:,} parameters, {inputs} -> {outputs}",
            f"batch        {batch}",
            f"batch norms  {_batch_norms(report)}",
            f"resolution   {escape(report.resolution.sentence)}",
        )
    )


def _batch_norms(report: IntakeReport) -> str:
    if report.batch_norms or not report.convolutions:
        return str(report.batch_norms)
    return "none: they were folded into the convolutions when the file was made, or the model has none"


def sizes(shape: TensorShape) -> str:
    """Sizes such as ``3x224x224``."""
    return "x".join(str(size) for size in shape)


def _groups(report: IntakeReport) -> Table:
    table = render.grid("group", "units", "channels", "narrowed together", "read by", title="May be narrowed")
    for group in report.groups:
        names = (escape(_listed(names)) for names in (group.layers, group.readers))
        table.add_row(escape(group.name), str(group.units), str(group.channels), *names)
    return table


def _blocks(report: IntakeReport) -> Table:
    table = render.grid("block", "layers that go with it", title="May be skipped")
    for block in report.blocks:
        table.add_row(escape(block.name), escape(_listed(block.layers)))
    return table


def _fixed(report: IntakeReport) -> Table:
    table = render.grid("layer", "channels", "because of", "reason", title="Stays as wide as it is")
    for fixed in report.fixed:
        table.add_row(escape(fixed.layer), str(fixed.channels), escape(fixed.cause), escape(fixed.reason))
    return table


def _opaque(report: IntakeReport) -> Table:
    table = render.grid("module", "operator", "reason", title="Runs as it is")
    for opaque in report.opaque:
        table.add_row(escape(opaque.module), escape(opaque.operator), escape(opaque.reason))
    return table


def _listed(names: tuple[str, ...]) -> str:
    return first_names(names, 4)
