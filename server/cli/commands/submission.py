"""Commands that submit searches: new ones, forks and extensions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nas.core.errors import Conflict, InvalidSpec, NotFound, StorageError
from nas.core.retraining import RetrainSpec, Start, teacher_from_text
from nas.core.spec import UNTRAINED_BUDGET, BudgetSpec, DataSpec, SearchSpec, StrategySpec, parse_spec, read_spec
from nas.core.spec_template import commented_spec
from nas.schemas.searches import ExtendBody, ForkBody
from server.cli import progress, render
from server.cli.device_options import BoundMs, DeviceOptions, FleetFront, SearchId, device_fields, with_latency_bound
from server.cli.following import follow_and_print
from server.cli.lazy import BAD_INPUT
from server.cli.options import KeyOption, ServiceOptions, service_command

WatchOption = Annotated[bool, typer.Option("--watch/--no-watch", help="Stay and show progress until it ends.")]
NameOption = Annotated[str | None, typer.Option(help="A name for people.")]
SeedOption = Annotated[int | None, typer.Option(min=0)]
OWN_MODEL, COMPRESS = "own_model", "compress"  # the space of a stored model's smaller versions, and its strategy


@service_command
def submit(
    service: ServiceOptions,
    spec: Annotated[Path | None, typer.Argument(help="A YAML or JSON file; without one, a search on digits.")] = None,
    name: NameOption = None,
    device: DeviceOptions = None,
    fleet: FleetFront = None,
    bound_ms: BoundMs = None,
    evaluations: Annotated[
        int | None,
        typer.Option(min=8, help="Architectures to evaluate.", show_default=str(BudgetSpec().evaluations)),
    ] = None,
    seed: SeedOption = None,
    precision: Annotated[
        Literal["float32", "float16", "int8", "mixed"] | None,
        typer.Option(help="Of the models that are scored, verified and exported; that of the device."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Make this stored model smaller; without --retrain, nothing is trained."),
    ] = None,
    supernet: Annotated[str | None, typer.Option(help="Reuse this search's trained supernet: no training.")] = None,
    retrain: Annotated[
        int | None, typer.Option(min=1, help="Train the best networks alone, for this many epochs each.")
    ] = None,
    retrain_start: Annotated[
        Start | None, typer.Option(help="Of retraining: from scratch, or with the weights of the search.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Of retraining: learn from `parent`, `largest` or an exported model, SEARCH/NETWORK."),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0.001, help="Stop after so long on workers, with the front so far.")
    ] = None,
    key: KeyOption = None,
    priority: Annotated[
        int, typer.Option("--priority", min=-100, max=100, help="Among your searches: higher runs first.")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report which bounds can be met and the cost; search nothing.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Of a dry run: time a few of its steps on a worker.")
    ] = True,
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, max=600, help="Of a dry run: seconds to wait for the worker.")
    ] = 60.0,
    watch: WatchOption = False,
) -> None:
    """Submit a search, from a file, from options, or both (options win).

    Examples:

    - `nas submit --dry-run --bound-ms 0.2`: can the bound be met, and how long will it take?
    - `nas submit examples/digits.yaml --bound-ms 0.2 --watch`
    - `nas submit --supernet SEARCH --device another --watch`: no training
    - `nas submit --device here-int8 --precision int8 --supernet SEARCH`: a front of int8 models, without training
    - `nas submit --device here-mixed --precision mixed --supernet SEARCH`: int8 or float32 for each group of layers
    - `nas submit --model signs --bound-ms 12 --watch`: a stored model, faster, without training
    - `nas submit --device pi=12 --device server=2`: one front, for the worst of both against its bound in ms
    - `nas submit --device pi --device server --fleet each`: one training, a front for each
    - `nas submit --retrain 30 --retrain-start inherited --teacher largest`: fine-tune what was found
    """
    base = read_spec(SearchSpec, spec) if spec is not None else _spec_without_file(service, model)
    record = base.model_dump(mode="json")
    record |= _non_null(name=name, seed=seed, precision=precision, supernet=supernet)
    if fields := device_fields(device, fleet, base.fleet):
        del record["device"]  # of a fleet it is the first
        record |= {"fleet": None, **fields}
    if model is not None:
        space = record["space"] if base.space.model is not None else {"name": OWN_MODEL, "params": {}}
        record["space"] = {**space, "model": model}
    if max_hours is not None:
        record["resources"]["max_hours"] = max_hours
    if bound_ms is not None:
        record |= with_latency_bound(base, bound_ms)
    record["retrain"] = _retraining(record, epochs=retrain, start=retrain_start, teacher=teacher)
    if model is not None and base.strategy == StrategySpec():
        preset = "no_training" if record["retrain"] is None else "best"
        record["strategy"] = {"name": COMPRESS, "params": {"preset": preset}}
        if preset == "no_training" and base.budget == BudgetSpec():
            record["budget"] = UNTRAINED_BUDGET.model_dump(mode="json")
    if evaluations is not None:
        record["budget"]["evaluations"] = evaluations
    complete = parse_spec(SearchSpec, record)
    with service.connect() as nas:
        if dry_run:
            report = nas.dry_run(complete, measure, wait_s)
            render.out(report, service.json_output, render.dry_run)
            raise typer.Exit(0 if report.feasible else BAD_INPUT)
        search = nas.submit(complete, key, priority)
        if watch:
            follow_and_print(nas, search.id, service.json_output)
        else:
            text = f"search [bold]{search.id}[/] is {search.status}; follow it with `nas watch {search.id}`"
            render.out(search, service.json_output, lambda _: text)


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("search.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
) -> None:
    """Write a commented spec, to be changed and submitted.

    Example: `nas init digits.yaml && nas submit digits.yaml --dry-run`
    """
    if file.exists() and not force:
        raise Conflict(f"{file} exists: choose another name, or write over it with --force")
    try:
        file.write_text(commented_spec(SearchSpec()), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from error
    typer.echo(f"{file} is a search on digits: change it, then `nas submit {file} --dry-run`")


@service_command
def fork(
    service: ServiceOptions,
    search_id: SearchId,
    spec: Annotated[Path | None, typer.Argument(help="A YAML or JSON file with fields to replace.")] = None,
    device: DeviceOptions = None,
    fleet: FleetFront = None,
    name: NameOption = None,
    seed: SeedOption = None,
    space_preset: Annotated[
        str | None,
        typer.Option(help="Train networks of the front from scratch in this size of their space; needs retraining."),
    ] = None,
    retrain: Annotated[
        int | None, typer.Option(min=1, help="Train the best networks alone, for this many epochs each.")
    ] = None,
    key: KeyOption = None,
    watch: WatchOption = False,
) -> None:
    """Submit a search on the trained supernet of another, with other settings and without training.

    The file may contain `name`, `device`, `fleet`, `objectives`, `budget`, `export`, `retrain`, `resources`, `seed` and
    `space`; options win. With a space, cells of the front become networks of that size.

    Example: `nas fork SEARCH --space-preset evaluation --retrain 600`
    """
    body = read_spec(ForkBody, spec) if spec is not None else ForkBody()
    with service.connect() as nas:
        record = body.model_dump(mode="json", exclude_unset=True) | _non_null(name=name, seed=seed)
        parent = nas.search(search_id).spec if space_preset is not None or retrain is not None else None
        if parent is not None and space_preset is not None:
            record["space"] = {"name": parent.space.name, "params": {"preset": space_preset}}
        if parent is not None and retrain is not None:
            of_parent = parent.model_dump(mode="json")
            before = record.get("retrain") or of_parent["retrain"]
            budget = record.get("budget") or of_parent["budget"]
            record["retrain"] = _retraining({"retrain": before, "budget": budget}, retrain, None, None)
        present_fleet = body.fleet or nas.search(search_id).spec.fleet if fleet else None
        if fields := device_fields(device, fleet, present_fleet):
            record |= {"device": None, "fleet": None, **fields}
        child = nas.fork(search_id, parse_spec(ForkBody, record), key)
        if watch:
            child = progress.follow_search(nas, child.id)
        render.out(child, service.json_output, render.search)


@service_command
def extend(
    service: ServiceOptions,
    search_id: SearchId,
    evaluations: Annotated[int | None, typer.Option(min=8, help="Architectures to evaluate.")] = None,
    bound_ms: BoundMs = None,
    device: DeviceOptions = None,
    fleet: FleetFront = None,
    name: NameOption = None,
    key: KeyOption = None,
    watch: WatchOption = False,
) -> None:
    """Extend a finished search on its trained supernet: more evaluations, another bound or device. No training.

    Example: `nas extend SEARCH --bound-ms 0.1 --watch`
    """
    bounds = {"latency": bound_ms} if bound_ms is not None else None
    with service.connect() as nas:
        fields = device_fields(device, fleet, nas.search(search_id).spec.fleet if fleet else None)
        record = {"name": name, "evaluations": evaluations, "bounds": bounds, **fields}
        child = nas.extend(search_id, parse_spec(ExtendBody, record), key)
        if watch:
            follow_and_print(nas, child.id, service.json_output)
        else:
            text = f"search [bold]{child.id}[/] extends {search_id}; follow it with `nas watch {child.id}`"
            render.out(child, service.json_output, lambda _: text)


def _spec_without_file(service: ServiceOptions, model: str | None) -> SearchSpec:
    """The spec that options change; of a model, on the data that it was judged on. The service refuses unknown models,
    and says how to add one."""
    if model is None:
        return SearchSpec(name="digits")
    with service.connect() as nas:
        try:
            data = nas.model(model).spec.data
        except NotFound:
            data = None
    return SearchSpec(name=f"{model}, faster", data=data or DataSpec())


def _retraining(
    record: dict[str, Any], epochs: int | None, start: Start | None, teacher: str | None
) -> dict[str, Any] | None:
    """``retrain`` of a spec with what the options say. Raises InvalidSpec for options of a search that does not."""
    options = _non_null(epochs=epochs, start=start)
    if teacher is not None:
        named = teacher_from_text(teacher)
        options["teacher"] = named if isinstance(named, str) else named.model_dump()
    before: dict[str, Any] | None = record["retrain"]
    if not options or (before is None and epochs is None):
        if options:
            raise InvalidSpec("--retrain-start and --teacher: expected --retrain EPOCHS, or a file with 'retrain'")
        return before
    networks = min(RetrainSpec().networks, record["budget"]["verified"])
    return {"networks": networks, **(before or {}), **options}


def _non_null(**options: Any) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}
