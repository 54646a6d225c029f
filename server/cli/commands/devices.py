"""Commands on devices, their profiles and their latency predictors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.spec import DataSpec, DeviceSpec, SpaceSpec, parse_spec
from nas.core.strict_yaml import parse_yaml
from server.cli import progress, render
from server.cli.following import until_interrupted
from server.cli.lazy import FAILED, MARKUP
from server.cli.options import Connection, KeyOption, ServiceOptions, service_command
from server.dashboard import formatting

devices_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Devices, their profiles and their latency predictors.",
)
DeviceName = Annotated[str, typer.Argument()]


@devices_app.command("add")
@service_command
def devices_add(
    service: ServiceOptions,
    name: Annotated[str, typer.Argument(help="A name for the device.")] = "this-machine",
    agent: Annotated[
        bool, typer.Option("--agent", help="Measure where `nas-agent --name NAME` runs, not on this service's worker.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option(help="Read latencies from a .csv, .json or .parquet file; measure nothing.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="This device's column in a table of several devices.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of the table's latencies: s, ms, us or ns.")] = None,
    networks: Annotated[
        str | None,
        typer.Option(
            help="How a table's networks were measured: as_written, with parts that do nothing, or simplified."
        ),
    ] = None,
    flops: Annotated[
        float | None, typer.Option(help="Peak floating-point operations per second, such as 2e12; measure nothing.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="With --flops: memory bandwidth in bytes per second, such as 5e10.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Search space to fit latencies for.", show_default="mobilenet_v3")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With a space of users' models: the stored model whose versions are measured.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="A space parameter, key=value; may be repeated. Without --space: preset=digits."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Data set; it gives the input's shape and the number of classes.")
    ] = DataSpec().name,
    data_path: Annotated[
        str | None, typer.Option(help="Path of the data set, on the machine that runs `nas serve`.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="The task of the searches, which decides what networks give; without it, that of the data."),
    ] = None,
    data_param: Annotated[
        list[str] | None, typer.Option(help="A data-set parameter, key=value; may be repeated.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Networks to measure; ten are enough once another device was added.")
    ] = DeviceSpec().samples,
    predictor: Annotated[
        str, typer.Option(help="Predictor family; `layer_lut` also measures every layer of the space.")
    ] = DeviceSpec().predictor,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = DeviceSpec().threads,
    runtime: Annotated[
        str, typer.Option(help="What runs the networks; `nas runtimes` lists them.")
    ] = DeviceSpec().runtime,
    provider: Annotated[
        str | None, typer.Option(help="Its execution provider, device or delegate.", show_default="the processor")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = DeviceSpec().batch,
    precision: Annotated[str, typer.Option(help="float32, float16, int8 or mixed.")] = DeviceSpec().precision,
    unsupported: Annotated[
        str, typer.Option(help="Networks with operators that the provider does not run: exclude or price them.")
    ] = DeviceSpec().unsupported,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_hours: Annotated[
        float | None, typer.Option(min=0.001, help="Stop measuring after so long, and learn from what was measured.")
    ] = None,
    key: KeyOption = None,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
) -> None:
    """Measure a machine and fit a latency predictor for a search space.

    Without `--agent` it is the machine that the service's worker runs on. A device can also be defined by a table of
    latencies, or by its peak figures; latencies on such a device are never called measured or verified.

    Space and data must be those of the searches that will use the predictor. Do not use the machine while it is
    measured.

    Examples:

    - `nas devices add this-machine`
    - `nas devices add big-box --space mobilenet_v3 --param preset=digits --samples 200`
    - `nas devices add here-openvino --runtime openvino --precision int8 --batch 8`
    - `nas devices add pi-2 --agent --samples 10`: fitted with the help of other devices
    - `nas devices add phone --table phone.csv`: columns `arch` and `ms`, or a column for every decision
    - `nas devices add chip --flops 2e12 --bandwidth 5e10`: a prior, before the hardware exists
    - `nas devices add pi --agent`, once `nas-agent --server URL --name pi` runs on the machine called pi
    """
    sources = {"agent": agent, "table": table is not None, "roofline": flops is not None or bandwidth is not None}
    if sum(sources.values()) > 1:
        raise InvalidSpec("expected one of --agent, --table, and --flops with --bandwidth")
    source = next((option for option, is_set in sources.items() if is_set), "worker")
    default = SpaceSpec()
    space_record = {"name": space or default.name, "model": model, "params": key_values(param or [])}
    record = {
        "name": name,
        "source": source,
        "space": default.model_dump() if space is None and model is None and not param else space_record,
        "data": data_record(data, data_path, task, data_param),
        "predictor": predictor,
        "samples": samples,
        "threads": threads,
        "runtime": runtime,
        "provider": provider,
        "batch": batch,
        "precision": precision,
        "unsupported": unsupported,
        "seed": seed,
        "max_hours": max_hours,
    }
    if source == "roofline":
        record["roofline"] = {"flops_per_s": flops, "bytes_per_s": bandwidth}
    with service.connect() as nas:
        if table is not None:
            record["table"] = {
                "blob": nas.upload_table(_read_bytes(table), table.name).blob,
                "device": column,
                "unit": unit,
                "networks": networks,
            }
        device = nas.add_device(parse_spec(DeviceSpec, record), key)
        if watch:
            device = until_interrupted(progress.follow_device, nas, name, f"nas devices show {name}")
        render.out(device, service.json_output, render.device)
    if watch and device.status != "succeeded":
        raise typer.Exit(FAILED)


@devices_app.command("list")
@service_command
def devices_list(service: ServiceOptions) -> None:
    """List devices."""
    with service.connect() as nas:
        render.out(nas.devices(), service.json_output, render.devices)


@devices_app.command("show")
@service_command
def devices_show(
    service: ServiceOptions,
    name: DeviceName = "this-machine",
) -> None:
    """Show a device with its predictor cards."""
    with service.connect() as nas:
        render.out(nas.device(name), service.json_output, render.device)


@devices_app.command("rename")
@service_command
def devices_rename(
    service: ServiceOptions,
    name: Annotated[str, typer.Argument()],
    new_name: Annotated[str, typer.Argument()],
) -> None:
    """Rename a device of yours. Searches that have ended keep the name that they were run with."""
    with service.connect() as nas:
        render.out(nas.rename_device(name, new_name), service.json_output, lambda d: f"device {name}: now {d.name}")


@devices_app.command("transfer")
@service_command
def devices_transfer(
    service: ServiceOptions,
    name: Annotated[str, typer.Argument()],
    owner: Annotated[str, typer.Argument(help="Who gets it; they need a token.")],
) -> None:
    """Give a device of yours, with its agent, to another owner, who starts the agent again with a token of theirs."""
    with service.connect() as nas:
        render.out(nas.transfer_device(name, owner), service.json_output, lambda d: f"device {name}: now of {d.owner}")


@devices_app.command("retry")
@service_command
def devices_retry(
    service: ServiceOptions,
    name: DeviceName = "this-machine",
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
) -> None:
    """Continue the latest onboarding of a device: what was measured is kept, what was refused is measured again."""
    with service.connect() as nas:
        nas.retry_onboarding(nas.device(name).id)
        device = nas.device(name)
        if watch:
            device = until_interrupted(progress.follow_device, nas, name, f"nas devices show {name}")
        render.out(device, service.json_output, render.device)
    if watch and device.status != "succeeded":
        raise typer.Exit(FAILED)


@devices_app.command("remove")
@devices_app.command("delete", hidden=True)
@service_command
def devices_delete(
    service: Connection,
    name: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a device of yours with its onboardings and predictors. This cannot be undone."""
    with service.connect() as nas:
        predictors = formatting.counted(len(nas.device(name).predictors), "predictor")
        if not yes and not typer.confirm(f"Delete device {name} with its {predictors}?"):
            raise typer.Exit(FAILED)
        nas.delete_device(name)
    typer.echo(f"device {name}: deleted")


@devices_app.command("versions")
@service_command
def devices_versions(
    service: ServiceOptions,
    name: DeviceName = "this-machine",
) -> None:
    """List the versions of a device's predictors, made by onboardings and by searches that fed measurements back."""
    with service.connect() as nas:
        render.out(nas.versions(name), service.json_output, render.versions)


@devices_app.command("drift")
@service_command
def devices_drift(
    service: ServiceOptions,
    name: DeviceName = "this-machine",
) -> None:
    """Report whether a device's predictor still holds, from what searches measured on it."""
    with service.connect() as nas:
        render.out(nas.drift(name), service.json_output, render.drift)


@devices_app.command("compare")
@service_command
def devices_compare(
    service: ServiceOptions,
    first: Annotated[str, typer.Argument(metavar="A")],
    second: Annotated[str, typer.Argument(metavar="B")],
    space: Annotated[str | None, typer.Option(help="Id of a space that both have a predictor for.")] = None,
) -> None:
    """Compare two devices: latencies of the same architectures, their rank correlation, and profile differences.

    Example: `nas devices compare this-machine pi`
    """
    with service.connect() as nas:
        render.out(nas.compare(first, second, space), service.json_output, render.comparison)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error


def data_record(name: str, path: Path | str | None, task: str | None, params: list[str] | None) -> dict[str, object]:
    """A data set as options give it: without a task, it has the one that it was added with, or the default."""
    record = {"name": name, "path": path, "params": key_values(params or [])} | ({} if task is None else {"task": task})
    return parse_spec(DataSpec, record).beside(Path.cwd()).model_dump(exclude_unset=True)


def key_values(texts: list[str]) -> dict[str, object]:
    """Parameters from ``key=value``, with YAML values. Raises InvalidSpec."""
    params = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidSpec(f"expected key=value, got {text!r}")
        if key in params:
            raise InvalidSpec(f"parameter {key!r} is given twice: expected it once")
        try:
            params[key] = parse_yaml(value)
        except InvalidSpec as error:
            raise InvalidSpec(
                f"expected a value such as 3, true, text or [1, 2] for {key}, got {value!r}: {error}"
            ) from error
    return params
