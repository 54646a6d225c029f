"""Commands on users' own models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.core.errors import InvalidInput
from nas.core.model_spec import ModelSpec, PreprocessingSpec
from nas.core.spec import parse_spec
from nas.models.intake import report_intake
from nas.models.reading.child import ReadLimits, check_file, read_model
from nas.schemas.user_models import UserModelDetailSchema, UserModelSchema
from server.cli import progress, render
from server.cli.commands.devices import data_record
from server.cli.following import until_interrupted
from server.cli.lazy import FAILED
from server.cli.model_report import draw_report, sizes
from server.cli.options import Connection, JsonOption, KeyOption, ServiceOptions, service_command
from server.dashboard import formatting

models_app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Models of your own: add them, see what can be made smaller."
)
ModelName = Annotated[str, typer.Argument(help="The model's name.", metavar="NAME")]
ModelFile = Annotated[Path, typer.Argument(help="A program of torch.export (.pt2) or an ONNX model (.onnx).")]


@models_app.command("add")
@service_command
def add_model(
    service: ServiceOptions,
    name: Annotated[str, typer.Argument(help="A name for the model.", metavar="NAME")],
    file: Annotated[
        Path | None, typer.Argument(help="A program of torch.export (.pt2) or an ONNX model (.onnx).")
    ] = None,
    package: Annotated[
        str | None, typer.Option(help="Instead of a file: an entry point nas.models of a package on the worker.")
    ] = None,
    timm: Annotated[str | None, typer.Option(help="Instead of a file: a model of timm, by its name.")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--untrained", help="With --timm: whether the worker downloads its weights.")
    ] = True,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to use instead: .safetensors, or a state dict (.pt, .pth).")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="What is subtracted from pixels of 0 to 255, by channel: 123.7,116.3,103.5.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="What they are divided by then, by channel: 58.4,57.1,57.4.")] = None,
    data: Annotated[str | None, typer.Option(help="Judge the model as it came on this data set, too.")] = None,
    data_path: Annotated[str | None, typer.Option(help="Path of the data set, on the service's machine.")] = None,
    data_param: Annotated[
        list[str] | None, typer.Option(help="A data-set parameter, key=value; may be repeated.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What is learned from the data; without it, what they were added with.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Measure the model as it came on this device, too.")] = None,
    key: KeyOption = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
) -> None:
    """Store a trained model, and report what of it may be narrowed, skipped and scaled, and what may not and why.

    A worker of the service reads the file in a process with limits; no code of the file runs. Searches over the space
    `own_model` name the stored model.

    Without `--mean` and `--std`, images are normalised by the statistics of the data of a search: right for a model
    that was trained so, wrong for others.

    Examples:

    - `nas models add signs signs.pt2 --mean 123.7,116.3,103.5 --std 58.4,57.1,57.4`
    - `nas models add old-net net.onnx`
    - `nas models add tuned signs.pt2 --weights epoch-30.safetensors`
    - `nas models add ours --package ours`
    """
    if sum(given is not None for given in (file, package, timm)) != 1:
        raise InvalidInput("expected a FILE, --package or --timm, and one of them only")
    if (mean is None) != (std is None):
        raise InvalidInput("expected --mean and --std together, or neither")
    if file is not None:
        check_file(file, ReadLimits())
    record: dict[str, object] = {"name": name, "device": device}
    if data is not None:
        record["data"] = data_record(data, data_path, task, data_param)
    if mean is not None and std is not None:
        record["preprocessing"] = {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}
        parse_spec(PreprocessingSpec, record["preprocessing"])  # before the upload, which takes longer
    with service.connect() as nas:
        if file is not None:
            record["source"] = {"kind": "file", **nas.upload_model_file(file).model_dump()}
        elif package is not None:
            record["source"] = {"kind": "package", "entry_point": package}
        else:
            record["source"] = {"kind": "timm", "model": timm, "pretrained": pretrained}
        if weights is not None:
            record["weights"] = nas.upload_model_file(weights).model_dump()
        added: UserModelSchema = nas.add_model(parse_spec(ModelSpec, record), key)
        if watch:
            added = until_interrupted(progress.follow_model, nas, name, f"nas models show {name}")
        _print(added, service.json_output)
    if watch and added.status != "succeeded":
        raise typer.Exit(FAILED)


@models_app.command("list")
@service_command
def list_models(service: ServiceOptions) -> None:
    """List your models."""
    with service.connect() as nas:
        render.out(nas.models(), service.json_output, _draw_list)


@models_app.command("show")
@service_command
def show_model(service: ServiceOptions, name: ModelName) -> None:
    """Show a model with its intake report."""
    with service.connect() as nas:
        _print(nas.model(name), service.json_output)


@models_app.command("retry")
@service_command
def retry_intake(service: ServiceOptions, name: ModelName) -> None:
    """Take a model in again whose intake has failed, was cancelled or was quarantined."""
    with service.connect() as nas:
        _print(nas.retry_intake(name), service.json_output)


@models_app.command("cancel")
@service_command
def cancel_intake(service: ServiceOptions, name: ModelName) -> None:
    """Stop the intake of a model now."""
    with service.connect() as nas:
        _print(nas.cancel_intake(name), service.json_output)


@models_app.command("delete")
@service_command
def delete_model(
    service: Connection,
    name: ModelName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a model of yours that no search and no device refers to. This cannot be undone."""
    with service.connect() as nas:
        nas.model(name)
        if not yes and not typer.confirm(f"Delete model {name}?"):
            raise typer.Exit(FAILED)
        nas.delete_model(name)
    typer.echo(f"model {name}: deleted")


@models_app.command("inspect")
def inspect_model(
    file: ModelFile,
    time_s: Annotated[float, typer.Option(min=1, help="How long reading may take, in seconds.")] = 120.0,
    json_output: JsonOption = False,
) -> None:
    """Read a model on this machine and print what may be narrowed, skipped and scaled, and what may not and why.

    No service has to run, and nothing is stored. No code of the file runs: it is read in a process of its own, with
    limits on memory and time.
    """
    report = report_intake(read_model(file, ReadLimits(time_s=time_s)).graph)
    render.out(asdict(report), json_output, lambda _: draw_report(file.name, report))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidInput(f"{option}: expected numbers such as 123.7,116.3,103.5, got {text!r}") from error


def _print(model: UserModelSchema, as_json: bool) -> None:
    render.out(model, as_json, _draw)


def _draw(model: UserModelSchema) -> RenderableType:
    lines = [f"model {escape(model.name)}: {model.status}", f"source       {escape(model.spec.source.label)}"]
    if model.spec.weights is not None:
        lines.append(f"weights      {escape(model.spec.weights.filename)}")
    if (p := model.preprocessing) is not None:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (p.mean, p.std))
        lines.append(f"images       (pixel - mean) / std, with mean {mean} and std {std}")
    if model.waiting:
        lines.append(f"waiting      {escape(model.waiting)}")
    if (quality := model.quality) is not None:
        interval = "" if quality.interval is None else f", {quality.interval[0]:.1f} to {quality.interval[1]:.1f}"
        value = formatting.reading(quality.metric, quality.value)
        lines.append(f"quality      {formatting.label(quality.metric)} {value} ({quality.images} images{interval})")
    if (latency := model.latency) is not None:
        interval = f"{latency.low_ms:.3g} to {latency.high_ms:.3g}"
        lines.append(f"latency      {latency.median_ms:.3g} ms on {escape(latency.device)} ({interval})")
    lines += [f"[yellow]warning[/]      {escape(warning)}" for warning in model.warnings]
    if model.error:
        lines.append(f"[red]refused[/]      {escape(model.error)}")
    parts: list[RenderableType] = ["\n".join(lines)]
    if isinstance(model, UserModelDetailSchema) and model.report is not None:
        parts += ["", draw_report(model.name, model.report)]
    return Group(*parts)


def _draw_list(models: list[UserModelSchema]) -> RenderableType:
    if not models:
        return "No models yet. Begin with: nas models add NAME FILE"
    table = render.grid("name", "owner", "status", "parameters", "input", "groups", "blocks", "resolution", "source")
    for model in models:
        cells = ["", "", "", "", ""]
        if (summary := model.summary) is not None:
            shape = sizes(summary.input_shape) if summary.input_shape is not None else "several"
            scalable = "may change" if summary.scalable else "fixed"
            cells = [f"{summary.parameters:,}", shape, str(summary.groups), str(summary.blocks), scalable]
        table.add_row(model.name, model.owner, model.status, *cells, escape(model.spec.source.label))
    return table
