"""The command line. Every command but ``serve`` and ``demo`` speaks only REST, through ``nas.client``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml

from nas.client import DEFAULT_URL, Client
from nas.core.errors import HwnasError, InvalidSpec, NotFound
from nas.core.spec import DeviceSpec, SearchSpec, parse_spec, read_spec
from nas.core.views import ArtifactView, ExtendBody
from server.cli import render

JOB_FAILED, BAD_INPUT = 1, 2

app = typer.Typer(
    name="nas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Hardware-aware neural architecture search.

Start a service with `nas serve`, measure your machine with `nas devices add this-machine`, and search with
`nas submit --watch`. Or see it all at once: `nas demo`.""",
)
devices_app = typer.Typer(no_args_is_help=True, help="Devices, their profiles and their latency predictors.")
app.add_typer(devices_app, name="devices")

Url = Annotated[str, typer.Option("--url", envvar="HWNAS_URL", help="Address of the service.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]
Id = Annotated[str, typer.Argument(help="The search's id, as `nas list` shows it.")]
BoundMs = Annotated[float | None, typer.Option("--bound-ms", min=1e-6, help="Latency bound in milliseconds.")]
Watch = Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress until it ends.")]


def main() -> None:
    """Runs the command line; errors are one line on standard error."""
    try:
        app()
    except HwnasError as error:
        _fail(error)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.", show_default="8765")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder for database and models.", show_default="~/.hwnas")] = None,
) -> None:
    """Start the service: API, dashboard, queue and workers, in one command.

    Settings are read from `HWNAS_...` environment variables; options win over them.
    """
    from server.cli.serve import serve as run

    given = {"host": host, "port": port, "home": home}
    run({k: v for k, v in given.items() if v is not None})


@app.command()
def demo(
    json_output: Json = False,
    home: Annotated[
        Path | None, typer.Option(help="Folder to keep everything in.", show_default="a new folder")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", hidden=True)] = False,
) -> None:
    """The whole way in minutes: this machine as a device, a search on digits, its front, a model that runs alone."""
    from server.cli.demo import run_demo

    result = run_demo(home, port, quick=quick)
    if json_output:
        typer.echo(json.dumps(result))


@app.command()
def submit(
    spec: Annotated[Path | None, typer.Argument(help="A YAML or JSON file; without one, a search on digits.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    device: Annotated[str | None, typer.Option(help="Device to search for.", show_default="this-machine")] = None,
    bound_ms: BoundMs = None,
    evaluations: Annotated[int | None, typer.Option(min=8, help="Subnets to score.", show_default="240")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    supernet: Annotated[str | None, typer.Option(help="Reuse this search's trained supernet: no training.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key submits once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what could be met; spend nothing.")] = False,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """Submit a search, from a file, from options, or both (options win).

    Example: `nas submit examples/digits.yaml --bound-ms 0.1 --watch`
    """
    base = read_spec(SearchSpec, spec) if spec is not None else SearchSpec(name="digits")
    record = base.model_dump(mode="json")
    changes = {"name": name, "device": device, "seed": seed, "supernet": supernet}
    record |= {k: v for k, v in changes.items() if v is not None}
    if evaluations is not None:
        record["budget"]["evaluations"] = evaluations
    if bound_ms is not None:
        _bound_latency(record, bound_ms)
    complete = parse_spec(SearchSpec, record)
    with Client(url) as nas:
        if dry_run:
            answer = nas.dry_run(complete)
            render.out(answer, json_output, render.dry_run)
            raise typer.Exit(0 if answer.feasible else BAD_INPUT)
        search = nas.submit(complete, key)
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
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """List searches, newest first."""
    with Client(url) as nas:
        page = nas.searches(status, limit)
    render.out(page.items, json_output, render.searches)


@app.command()
def show(search_id: Id, url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """Show one search with its stages."""
    with Client(url) as nas:
        render.out(nas.search(search_id), json_output, render.search)


@app.command()
def watch(search_id: Id, url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """Follow a search until it ends."""
    with Client(url) as nas:
        _follow(nas, search_id, json_output)


@app.command()
def front(
    search_id: Id,
    bound_ms: BoundMs = None,
    objectives: Annotated[str | None, typer.Option(help="Axes, such as accuracy,latency,params.")] = None,
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """Print the Pareto front of a search, and of its random baseline."""
    with Client(url) as nas:
        found = nas.front(search_id, bound_ms=bound_ms, objectives=objectives.split(",") if objectives else None)
    render.out(found, json_output, render.front)


@app.command()
def pull(
    search_id: Id,
    arch: Annotated[str, typer.Argument(help="A network's id, `best` (accuracy), `fastest`, or `all`.")] = "best",
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")] = Path(),
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """Download exported models. Each zip holds ONNX models, weights, manifest, card and a runner."""
    with Client(url) as nas:
        paths = [nas.download(a, to / a.name) for a in choose_artifacts(nas, search_id, arch)]
    render.out([str(p) for p in paths], json_output, lambda names: "\n".join(names))


@app.command()
def cancel(search_id: Id, url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """Cancel a search; what it found stays."""
    with Client(url) as nas:
        render.out(nas.cancel(search_id), json_output, lambda s: f"search {s.id}: cancelling ({s.status})")


@app.command()
def extend(
    search_id: Id,
    evaluations: Annotated[int | None, typer.Option(min=8, help="Further subnets to score.")] = None,
    bound_ms: BoundMs = None,
    device: Annotated[str | None, typer.Option(help="Another device with a predictor for this space.")] = None,
    name: Annotated[str | None, typer.Option(help="A name for people.")] = None,
    watch: Watch = False,
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """Go on with a finished search on its trained supernet: more evaluations, another bound or device. No training."""
    bounds = {"latency": bound_ms} if bound_ms is not None else None
    body = ExtendBody(name=name, evaluations=evaluations, bounds=bounds, device=device)
    with Client(url) as nas:
        search = nas.extend(search_id, body)
        if watch:
            _follow(nas, search.id, json_output)
        else:
            render.out(
                search, json_output, lambda s: f"search [bold]{s.id}[/] goes on from {search_id}; `nas watch {s.id}`"
            )


@devices_app.command("add")
def devices_add(
    name: Annotated[str, typer.Argument(help="A name for the machine the worker runs on.")] = "this-machine",
    space: Annotated[str, typer.Option(help="Search space to learn latencies for.")] = "mobilenet_v3",
    param: Annotated[list[str] | None, typer.Option(help="A space parameter, key=value; may be repeated.")] = None,
    data: Annotated[str, typer.Option(help="Data set: gives input channels and classes.")] = "digits",
    data_path: Annotated[str | None, typer.Option(help="Where the data set lies.")] = None,
    data_param: Annotated[list[str] | None, typer.Option(help="A data-set parameter, key=value.")] = None,
    samples: Annotated[int, typer.Option(min=24, help="Subnets to measure.")] = 96,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress.")] = True,
    url: Url = DEFAULT_URL,
    json_output: Json = False,
) -> None:
    """Measure this machine and learn a latency predictor for a search space.

    Example: `nas devices add this-machine --param preset=digits`
    """
    params = _pairs(param) if param else {"preset": "digits"}
    record = {
        "name": name,
        "space": {"name": space, "params": params},
        "data": {"name": data, "path": data_path, "params": _pairs(data_param or [])},
        "samples": samples,
        "threads": threads,
        "seed": seed,
    }
    with Client(url) as nas:
        device = nas.add_device(parse_spec(DeviceSpec, record))
        if watch:
            device = render.follow_device(nas, device.name)
        render.out(device, json_output, render.device)
    if watch and device.status != "succeeded":
        raise typer.Exit(JOB_FAILED)


@devices_app.command("list")
def devices_list(url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """List devices."""
    with Client(url) as nas:
        render.out(nas.devices(), json_output, render.devices)


@devices_app.command("show")
def devices_show(
    name: Annotated[str, typer.Argument()] = "this-machine", url: Url = DEFAULT_URL, json_output: Json = False
) -> None:
    """Show a device with its predictor cards."""
    with Client(url) as nas:
        render.out(nas.device(name), json_output, render.device)


@app.command()
def spaces(url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """List search spaces."""
    with Client(url) as nas:
        render.out(nas.spaces(), json_output, render.spaces)


@app.command()
def strategies(url: Url = DEFAULT_URL, json_output: Json = False) -> None:
    """List strategies and their parameters."""
    with Client(url) as nas:
        render.out(nas.strategies(), json_output, render.strategies)


def choose_artifacts(nas: Client, search_id: str, which: str) -> list[ArtifactView]:
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
    search = render.follow_search(nas, search_id)
    render.out(search, json_output, render.search)
    if search.status == "succeeded" and not json_output:
        render.out(nas.front(search_id), json_output, render.front)
    if search.status != "succeeded":
        raise typer.Exit(JOB_FAILED)


def _bound_latency(record: dict[str, Any], bound_ms: float) -> None:
    for objective in record["objectives"]:
        if objective["name"] == "latency":
            objective["bound"] = bound_ms
            return
    raise InvalidSpec("--bound-ms needs latency among the objectives of the spec")


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InvalidSpec(f"expected key=value, got {text!r}")
        pairs[key] = yaml.safe_load(value)
    return pairs


def _fail(error: HwnasError) -> NoReturn:
    sys.stderr.write(f"nas: {error}\n")
    sys.exit(BAD_INPUT)
