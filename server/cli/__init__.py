"""The command line. Every command but ``serve`` and ``demo`` speaks only REST, through ``nas.client``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml
from rich.markup import escape
from typer.core import TyperGroup

from nas.client import DEFAULT_URL, Client
from nas.core.errors import Conflict, HwnasError, InvalidInput, InvalidSpec, NotFound, StorageError
from nas.core.lifecycle import JobStatus
from nas.core.metrics import OBJECTIVES
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    FleetSpec,
    RetrainSpec,
    SearchSpec,
    SpaceSpec,
    parse_spec,
    read_spec,
)
from nas.schemas.candidates import ArtifactSchema
from nas.schemas.searches import ExtendBody, ForkBody
from server.cli import admin, progress, render
from server.cli.words import Home, Json, Token, Url, connect

V = TypeVar("V")
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Commands whose errors are one line on standard error: exit status 2 for what was asked, 1 for what went wrong."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except HwnasError as error:
            sys.stderr.write(f"nas: {error}\n")
            raise typer.Exit(BAD_INPUT if isinstance(error, InvalidInput | NotFound | Conflict) else FAILED) from error


app = typer.Typer(
    name="nas",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Hardware-aware neural architecture search.

See it all at once with `nas demo`. Or step by step:

- `nas serve` starts the service and its dashboard, in a terminal of its own
- `nas devices add this-machine` measures this machine and learns its latency
- `nas submit --bound-ms 0.2 --watch` searches
- `nas front SEARCH` prints what was found
- `nas pull SEARCH best` downloads the most accurate network

Every command has its own `--help`. A service that asks for a token finds it in
`HWNAS_TOKEN`. Exit status: 0 done, 1 the job or the service failed, 2 wrong input.""",
)
devices_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Devices, their profiles and their latency predictors.",
)
app.add_typer(devices_app, name="devices")
app.add_typer(admin.tokens_app, name="tokens")
app.add_typer(admin.quotas_app, name="quotas")
app.command("me")(admin.me)
app.command("audit")(admin.audit)
for command in (admin.gc, admin.doctor, admin.backup, admin.restore):
    app.command()(command)

Id = Annotated[str, typer.Argument(help="The search's id, as `nas list` shows it.", metavar="SEARCH")]
BoundMs = Annotated[float | None, typer.Option("--bound-ms", min=1e-6, help="Latency bound in milliseconds.")]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Device to search for; several make a fleet. NAME=MS bounds latency on one of several.",
        show_default="this-machine",
    ),
]
Front = Literal["worst_case", "each"]
FleetFront = Annotated[
    Front | None,
    typer.Option("--fleet", help="Of several devices: one front for the worst of them, or a front for each."),
]
Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress until it ends.")]

_AXES = f"Axes: 2 to 4 of {','.join(OBJECTIVES)}."


def main() -> None:
    """Runs the command line."""
    app()


@app.callback()
def nas(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Option("--url", envvar="HWNAS_URL", help="Address of the service.", show_default=True)
    ] = DEFAULT_URL,
    token: Annotated[
        str | None, typer.Option("--token", envvar="HWNAS_TOKEN", help="API token.", show_default=False)
    ] = None,
) -> None:
    """What is given before a command holds for it, unless the command says otherwise."""
    ctx.default_map = _for_every_command(ctx.command, {"url": url, "token": token})


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes a free one.", show_default="8765")] = None,
    home: Home = None,
    dispatch: Annotated[
        bool | None, typer.Option("--dispatch/--no-dispatch", help="Run searches here, too.", show_default="dispatch")
    ] = None,
) -> None:
    """Start the service: API, dashboard, queue and workers, in one command.

    It runs until Ctrl-C; searches that were interrupted go on at the next start. Settings are read from `HWNAS_...`
    environment variables, and options win over them.

    Example: `nas serve --port 8000 --home /data/hwnas`
    """
    from server.cli.serve import serve as run

    given = {"host": host, "port": port, "home": home, "dispatch": dispatch}
    run({k: v for k, v in given.items() if v is not None})


@app.command()
def dispatch(
    home: Home = None,
    supervised: Annotated[int | None, typer.Option("--supervised", hidden=True)] = None,
) -> None:
    """Run searches for a service that is started elsewhere with `nas serve --no-dispatch`.

    Both need the same database and the same place for models: see `HWNAS_DATABASE_URL` and `HWNAS_BLOBS_URL`. It runs
    until Ctrl-C; what it was running goes on elsewhere.
    """
    from server.cli.dispatch import dispatch as run

    run({"home": home} if home is not None else {}, supervised=supervised)


@app.command()
def demo(
    json_output: Json = False,
    home: Home = None,
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


@app.command()
def version(json_output: Json = False) -> None:
    """Print the version."""
    render.out({"version": version_of("hwnas")}, json_output, lambda v: f"hwnas {v['version']}")


@app.command()
def submit(
    spec: Annotated[Path | None, typer.Argument(help="A YAML or JSON file; without one, a search on digits.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    device: Devices = None,
    fleet: FleetFront = None,
    bound_ms: BoundMs = None,
    evaluations: Annotated[
        int | None, typer.Option(min=8, help="Subnets to score.", show_default=str(BudgetSpec().evaluations))
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    supernet: Annotated[str | None, typer.Option(help="Reuse this search's trained supernet: no training.")] = None,
    retrain: Annotated[
        int | None, typer.Option(min=1, help="Train the found networks from scratch, for so many epochs each.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key submits once.")] = None,
    first: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Among your searches: higher goes first.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what could be met and what it would take; search nothing.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Of a dry run: time a few steps of it on a worker.")
    ] = True,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, max=600, help="Of a dry run: seconds to wait for the worker.")
    ] = 60.0,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Submit a search, from a file, from options, or both (options win).

    Examples:

    - `nas submit --dry-run --bound-ms 0.2`: can the bound be met, and how long will it take?
    - `nas submit examples/digits.yaml --bound-ms 0.2 --watch`
    - `nas submit --supernet SEARCH --device another --watch`: no training
    - `nas submit --device pi=12 --device server=2`: one front, for the worst of both against its bound in ms
    - `nas submit --device pi --device server --fleet each`: one training, a front for each
    """
    base = read_spec(SearchSpec, spec) if spec is not None else SearchSpec(name="digits")
    record = base.model_dump(mode="json")
    changes = {"name": name, "seed": seed, "supernet": supernet}
    record |= {k: v for k, v in changes.items() if v is not None}
    chosen = _devices(device, fleet, base.fleet)
    if chosen:
        del record["device"]  # of a fleet it is the first
        record |= {"fleet": None, **chosen}
    if evaluations is not None:
        record["budget"]["evaluations"] = evaluations
    if bound_ms is not None:
        _bound_latency(record, bound_ms)
    if retrain is not None:
        networks = min(RetrainSpec().networks, record["budget"]["verified"])
        record["retrain"] = {"networks": networks, **(record["retrain"] or {}), "epochs": retrain}
    complete = parse_spec(SearchSpec, record)
    with connect(url, token) as nas:
        if dry_run:
            answer = nas.dry_run(complete, measure, wait_s)
            render.out(answer, json_output, render.dry_run)
            raise typer.Exit(0 if answer.feasible else BAD_INPUT)
        search = nas.submit(complete, key, first)
        if not watch:
            render.out(
                search,
                json_output,
                lambda s: f"search [bold]{s.id}[/] is {s.status}; follow it with `nas watch {s.id}`",
            )
            return
        _follow(nas, search.id, json_output)


@app.command(name="list")
def list_searches(
    status: Annotated[JobStatus | None, typer.Option(help="Only searches of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """List searches, newest first."""
    with connect(url, token) as nas:
        page = nas.searches(status, limit)
    render.out(page.items, json_output, render.searches)


@app.command()
def show(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Show one search with its stages."""
    with connect(url, token) as nas:
        render.out(nas.search(search_id), json_output, render.search)


@app.command()
def watch(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Follow a search until it ends, then print its front. Ctrl-C stops the watching, not the search."""
    with connect(url, token) as nas:
        _follow(nas, search_id, json_output)


@app.command()
def front(
    search_id: Id,
    bound_ms: BoundMs = None,
    objectives: Annotated[str | None, typer.Option(help=_AXES)] = None,
    device: Annotated[
        str | None, typer.Option(help="As one device of the fleet has it, or as predicted for any other.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Print the Pareto front of a search, beside that of random search at the same budget.

    Example: `nas front SEARCH --bound-ms 0.2 --objectives accuracy,latency,params`
    """
    axes = [name.strip() for name in objectives.split(",")] if objectives else None
    with connect(url, token) as nas:
        found = nas.front(search_id, device, bound_ms, axes)
    render.out(found, json_output, render.front)


@app.command()
def pull(
    search_id: Id,
    arch: Annotated[str, typer.Argument(help="A network's id, `best` (accuracy), `fastest`, or `all`.")] = "best",
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")] = Path(),
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Download exported models. Each zip holds ONNX models, weights, manifest, card and a runner.

    Example: `nas pull SEARCH fastest --to models`
    """
    with connect(url, token) as nas:
        paths = [nas.download(a, to / _file_name(a)) for a in choose_artifacts(nas, search_id, arch)]
    render.out([str(p) for p in paths], json_output, lambda names: escape("\n".join(names)))


@app.command()
def pause(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Park a search at its next result; its worker is free then. `nas resume` lets it go on."""
    with connect(url, token) as nas:
        render.out(nas.pause(search_id), json_output, lambda s: f"search {s.id}: {s.status}")


@app.command()
def resume(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Let a paused search go on where it was parked."""
    with connect(url, token) as nas:
        render.out(nas.resume(search_id), json_output, lambda s: f"search {s.id}: {s.status}")


@app.command()
def cancel(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Cancel a search, now; what it found stays."""
    with connect(url, token) as nas:
        render.out(nas.cancel(search_id), json_output, lambda s: f"search {s.id}: {s.status}")


@app.command()
def retry(search_id: Id, url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """Let a search that failed, was cancelled or quarantined go on from its last checkpoint."""
    with connect(url, token) as nas:
        render.out(nas.retry(search_id), json_output, lambda s: f"search {s.id}: {s.status}")


@app.command()
def priority(
    search_id: Id,
    value: Annotated[int, typer.Argument(help="Higher goes first among your searches.", min=-100, max=100)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Move a search in the queue, among those of its owner."""
    with connect(url, token) as nas:
        render.out(nas.set_priority(search_id, value), json_output, lambda s: f"search {s.id}: priority {s.priority}")


@app.command()
def delete(
    search_id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Delete a search that is paused or has ended, with all it found. There is no way back."""
    with connect(url, token) as nas:
        name = nas.search(search_id).spec.name
        if not yes and not typer.confirm(f"Delete {name} ({search_id}) with all it found?"):
            raise typer.Exit(FAILED)
        nas.delete(search_id)
    typer.echo(f"search {search_id}: deleted")


@app.command()
def fork(
    search_id: Id,
    spec: Annotated[Path | None, typer.Argument(help="A YAML or JSON file with what replaces the parent's.")] = None,
    device: Devices = None,
    fleet: FleetFront = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Start a new search on the trained supernet of another, with other settings; it is not trained again.

    The file may give `name`, `device`, `fleet`, `objectives`, `budget`, `export`, `retrain`, `resources` and `seed`;
    options win.
    """
    body = read_spec(ForkBody, spec) if spec is not None else ForkBody()
    given = {k: v for k, v in {"name": name, "seed": seed}.items() if v is not None}
    with connect(url, token) as nas:
        record = body.model_dump(mode="json", exclude_unset=True) | given
        if chosen := _devices(device, fleet, body.fleet or nas.search(search_id).spec.fleet if fleet else None):
            record |= {"device": None, "fleet": None, **chosen}
        child = nas.fork(search_id, parse_spec(ForkBody, record))
        if watch:
            child = progress.follow_search(nas, child.id)
        render.out(child, json_output, render.search)


@app.command()
def extend(
    search_id: Id,
    evaluations: Annotated[int | None, typer.Option(min=8, help="Subnets to score.")] = None,
    bound_ms: BoundMs = None,
    device: Devices = None,
    fleet: FleetFront = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Go on with a finished search on its trained supernet: more evaluations, another bound or device. No training.

    Example: `nas extend SEARCH --bound-ms 0.1 --watch`
    """
    bounds = {"latency": bound_ms} if bound_ms is not None else None
    with connect(url, token) as nas:
        chosen = _devices(device, fleet, nas.search(search_id).spec.fleet if fleet else None)
        record = {"name": name, "evaluations": evaluations, "bounds": bounds, **chosen}
        body = parse_spec(ExtendBody, record)
        search = nas.extend(search_id, body)
        if watch:
            _follow(nas, search.id, json_output)
        else:
            render.out(
                search, json_output, lambda s: f"search [bold]{s.id}[/] goes on from {search_id}; `nas watch {s.id}`"
            )


@devices_app.command("add")
def devices_add(
    name: Annotated[str, typer.Argument(help="A name for the device.")] = "this-machine",
    agent: Annotated[
        bool, typer.Option("--agent", help="Measure where `nas-agent --name NAME` runs, not on this service's worker.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option(help="Measure nothing: latencies from a file .csv, .json or .parquet.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of a table of several devices: which is this one.")] = None,
    unit: Annotated[str | None, typer.Option(help="Of the table's latencies: s, ms, us or ns.")] = None,
    flops: Annotated[
        float | None, typer.Option(help="Measure nothing: peak floating-point operations a second, such as 2e12.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="With --flops: bytes of memory a second, such as 5e10.")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="Search space to learn latencies for.", show_default="mobilenet_v3")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(help="A space parameter, key=value; may be repeated. Without --space: preset=digits."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Data set; it gives the input's shape and the number of classes.")
    ] = DataSpec().name,
    data_path: Annotated[str | None, typer.Option(help="Where the data set lies.")] = None,
    data_param: Annotated[
        list[str] | None, typer.Option(help="A data-set parameter, key=value; may be repeated.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Subnets to measure; ten will do once three devices are known.")
    ] = DeviceSpec().samples,
    predictor: Annotated[
        str, typer.Option(help="Predictor family; `layer_table` measures every layer of the space, too.")
    ] = DeviceSpec().predictor,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = DeviceSpec().threads,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Measure a machine and learn a latency predictor for a search space.

    Without `--agent` it is the machine that the service's worker runs on. A device can also be known by a table of
    latencies, or by its peak figures alone; nothing is ever called measured or verified on such a device.

    Space and data must be those of the searches that will use the predictor. While it measures, leave the machine
    alone.

    Examples:

    - `nas devices add this-machine`
    - `nas devices add big-box --space mobilenet_v3 --param preset=digits --samples 200`
    - `nas devices add pi-2 --agent --samples 10`: from three devices or more that are known
    - `nas devices add phone --table phone.csv`: columns `arch` and `ms`, or a column for every decision
    - `nas devices add chip --flops 2e12 --bandwidth 5e10`: a prior, before there is anything to measure on
    - `nas devices add pi --agent`, once `nas-agent --server URL --name pi` runs on the machine called pi
    """
    chosen = {"agent": agent, "table": table is not None, "roofline": flops is not None or bandwidth is not None}
    if sum(chosen.values()) > 1:
        raise InvalidSpec("expected one of --agent, --table, and --flops with --bandwidth")
    source = next((name for name, is_it in chosen.items() if is_it), "worker")
    default = SpaceSpec()
    given = {"name": space or default.name, "params": _pairs(param or [])}
    record = {
        "name": name,
        "source": source,
        "space": default.model_dump() if space is None and not param else given,
        "data": {"name": data, "path": data_path, "params": _pairs(data_param or [])},
        "predictor": predictor,
        "samples": samples,
        "threads": threads,
        "seed": seed,
    }
    if source == "roofline":
        record["roofline"] = {"flops_per_s": flops, "bytes_per_s": bandwidth}
    with connect(url, token) as nas:
        if table is not None:
            record["table"] = {
                "blob": nas.upload_table(_bytes_of(table), table.name).blob,
                "device": column,
                "unit": unit,
            }
        device = nas.add_device(parse_spec(DeviceSpec, record))
        if watch:
            device = _until_interrupted(progress.follow_device, nas, name, f"nas devices show {name}")
        render.out(device, json_output, render.device)
    if watch and device.status != "succeeded":
        raise typer.Exit(FAILED)


@devices_app.command("list")
def devices_list(url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """List devices."""
    with connect(url, token) as nas:
        render.out(nas.devices(), json_output, render.devices)


@devices_app.command("show")
def devices_show(
    name: Annotated[str, typer.Argument()] = "this-machine",
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Show a device with its predictor cards."""
    with connect(url, token) as nas:
        render.out(nas.device(name), json_output, render.device)


@devices_app.command("versions")
def devices_versions(
    name: Annotated[str, typer.Argument()] = "this-machine",
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """List the versions of a device's predictors: after each onboarding, and after each search that fed back what it
    had measured."""
    with connect(url, token) as nas:
        render.out(nas.versions(name), json_output, render.versions)


@devices_app.command("drift")
def devices_drift(
    name: Annotated[str, typer.Argument()] = "this-machine",
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Say whether a device still is what its predictor says, by what searches have measured on it."""
    with connect(url, token) as nas:
        render.out(nas.drift(name), json_output, render.drift)


@devices_app.command("compare")
def devices_compare(
    first: Annotated[str, typer.Argument(metavar="A")],
    second: Annotated[str, typer.Argument(metavar="B")],
    space: Annotated[str | None, typer.Option(help="Id of a space that both know.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """Put two devices side by side: the same networks on both, how alike they rank them, and in what they differ.

    Example: `nas devices compare this-machine pi`
    """
    with connect(url, token) as nas:
        render.out(nas.compare(first, second, space), json_output, render.comparison)


@app.command()
def predictors(
    device: Annotated[str | None, typer.Option(help="Only of this device.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    json_output: Json = False,
) -> None:
    """List the cards of latency predictors."""
    with connect(url, token) as nas:
        render.out(nas.predictors(device), json_output, render.predictors)


@app.command()
def spaces(url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """List search spaces."""
    with connect(url, token) as nas:
        render.out(nas.spaces(), json_output, render.spaces)


@app.command()
def strategies(url: Url = DEFAULT_URL, token: Token = None, json_output: Json = False) -> None:
    """List strategies and their parameters."""
    with connect(url, token) as nas:
        render.out(nas.strategies(), json_output, render.strategies)


def choose_artifacts(nas: Client, search_id: str, which: str) -> list[ArtifactSchema]:
    """The artifacts of ``best`` or ``fastest`` front member, of ``all``, or of one network. Raises NotFound."""
    artifacts = nas.artifacts(search_id)
    if not artifacts:
        raise NotFound(f"search {search_id} has exported no models (yet)")
    if which == "all":
        return artifacts
    if which in ("best", "fastest"):
        have = {a.arch for a in artifacts}
        members = [p for p in nas.front(search_id).points if p.arch in have]
        if not members:
            raise NotFound(f"no front member of search {search_id} was exported")
        key = "test_accuracy" if which == "best" else "measured_ms"
        sign = -1 if which == "best" else 1
        which = min(members, key=lambda p: sign * p.metrics[key].value).arch
    chosen = [a for a in artifacts if a.arch == which]
    if not chosen:
        known = ", ".join(sorted({a.arch for a in artifacts}))
        raise NotFound(
            f"no exported network {which!r} in search {search_id}: expected one of best, fastest, all, {known}"
        )
    return chosen


def _follow(nas: Client, search_id: str, json_output: bool) -> None:
    search = _until_interrupted(progress.follow_search, nas, search_id, f"nas watch {search_id}")
    render.out(search, json_output, render.search)
    if search.status != "succeeded":
        raise typer.Exit(FAILED)
    if not json_output:
        render.out(nas.front(search_id), json_output, render.front)


def _until_interrupted(follow: Callable[[Client, str], V], nas: Client, name: str, again: str) -> V:
    try:
        return follow(nas, name)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nno longer watching, the work goes on; to look again: {again}\n")
        raise typer.Exit(INTERRUPTED) from None


def _for_every_command(command: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    """Defaults of options, in the shape in which a group hands them down."""
    children: dict[str, Any] = getattr(command, "commands", {})
    return defaults | {name: _for_every_command(c, defaults) for name, c in children.items()}


def _file_name(artifact: ArtifactSchema) -> str:
    """Raises StorageError for a name that would lead out of the folder that was asked for."""
    if PurePosixPath(artifact.name).name != artifact.name or artifact.name in ("", "..") or "\\" in artifact.name:
        raise StorageError(f"expected a plain file name from the server, got {artifact.name!r}")
    return artifact.name


def _devices(given: list[str] | None, front: Front | None, before: FleetSpec | None) -> dict[str, Any]:
    """``device`` or ``fleet`` of a spec from options; nothing if there are none. ``before``: the fleet whose front
    ``--fleet`` alone changes."""
    if not given:
        if front is None:
            return {}
        if before is None:
            raise InvalidSpec("--fleet needs two devices or more: name each with --device")
        return {"fleet": before.model_copy(update={"front": front}).model_dump(mode="json")}
    pairs = [text.partition("=") for text in given]
    bounds_ms: dict[str, float] = {}
    for name, equals, bound in pairs:
        if equals:
            try:
                bounds_ms[name] = float(bound)
            except ValueError:
                raise InvalidSpec(f"--device {name}: expected a bound in milliseconds, got {bound!r}") from None
    if len(pairs) == 1:
        if front is not None:
            raise InvalidSpec("--fleet needs two devices or more: name each with --device")
        if bounds_ms:
            raise InvalidSpec(f"--device {given[0]}: of a single device, give the bound with --bound-ms")
        return {"device": given[0]}
    fleet = {"devices": [name for name, _, _ in pairs], "front": front or "worst_case", "bounds_ms": bounds_ms}
    return {"fleet": fleet}


def _bound_latency(record: dict[str, Any], bound_ms: float) -> None:
    for objective in record["objectives"]:
        if objective["name"] == "latency":
            objective["bound"] = bound_ms
            return
    raise InvalidSpec("--bound-ms needs latency among the objectives of the spec")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidSpec(f"expected key=value, got {text!r}")
        try:
            pairs[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidSpec(f"expected a value such as 3, true, text or [1, 2] for {key}, got {value!r}") from error
    return pairs
