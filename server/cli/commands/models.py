"""Commands on users' own models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nas.models.graph import TensorShape
from nas.models.intake import IntakeReport, report_intake
from nas.models.reading.child import ReadLimits, read_model
from server.cli import render
from server.cli.options import JsonOption

models_app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Models of your own: what of them can be made smaller."
)


@models_app.callback()
def models() -> None:
    """Models of your own: what of them can be made smaller."""


@models_app.command("inspect")
def inspect_model(
    file: Annotated[Path, typer.Argument(help="A program of torch.export (.pt2) or an ONNX model (.onnx).")],
    time_s: Annotated[float, typer.Option(min=1, help="How long reading may take, in seconds.")] = 120.0,
    json_output: JsonOption = False,
) -> None:
    """Read a model on this machine and print what may be narrowed, skipped and scaled, and what may not and why.

    No code of the file runs: it is read in a process of its own, with limits on memory and time.
    """
    report = report_intake(read_model(file, ReadLimits(time_s=time_s)).graph)
    render.out(asdict(report), json_output, lambda _: _draw(file, report))


def _draw(file: Path, report: IntakeReport) -> RenderableType:
    parts: list[RenderableType] = [_summary(file, report)]
    if report.groups:
        parts += ["", _groups(report)]
    if report.blocks:
        parts += ["", _blocks(report)]
    if report.fixed:
        parts += ["", _fixed(report)]
    return Group(*parts)


def _summary(file: Path, report: IntakeReport) -> str:
    inputs = ", ".join(f"{escape(name)} {_sizes(shape)}" for name, shape in report.inputs)
    outputs = ", ".join(_sizes(shape) for shape in report.outputs)
    scaling = report.resolution
    resolution = (
        f"may change by multiples of {scaling.multiple} pixels" if scaling.scalable else f"fixed: {scaling.reason}"
    )
    batch = "any number of images at once" if report.any_batch else "only as many images at once as in its example"
    return "\n".join(
        (
            f"[bold]{escape(file.name)}[/]: {report.parameters:,} parameters, {inputs} -> {outputs}",
            f"batch        {batch}",
            f"batch norms  {_batch_norms(report)}",
            f"resolution   {escape(resolution)}",
        )
    )


def _batch_norms(report: IntakeReport) -> str:
    if report.batch_norms or not report.convolutions:
        return str(report.batch_norms)
    return "none: they were folded into the convolutions when the file was made, or the model has none"


def _sizes(shape: TensorShape) -> str:
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


def _listed(names: tuple[str, ...], limit: int = 4) -> str:
    further = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {further} more" if further > 0 else "")
