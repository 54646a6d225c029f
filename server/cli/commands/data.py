"""Commands on data sets. Checking and preparing read files of this machine and need no service."""

from __future__ import annotations

import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress import Progress

from nas.core.data_account import DataAccount, account_sentences
from nas.core.errors import InvalidInput
from nas.core.spec import DataSpec
from nas.core.tasks import DEFAULT_TASK
from nas.datasets.cache import cache_folder, is_url
from nas.datasets.cache_entries import CacheEntry, cache_entries, limit_bytes, make_room
from nas.datasets.check import DataReport, check_data, usual_name
from nas.schemas.named_data import DataCheckSchema, NamedDataSchema
from server.cli import render
from server.cli.commands.devices import key_values
from server.cli.lazy import BAD_INPUT, FAILED, MARKUP
from server.cli.options import Connection, JsonOption, ServiceOptions, service_command
from server.dashboard import formatting

data_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Data sets: add them by a name, check them before a search, prepare large ones, free the cache.",
)
DataName = Annotated[str, typer.Argument(help="The data set's name.", metavar="NAME")]
KindOption = Annotated[
    str | None, typer.Option("--kind", "--name", help="Kind of data set, if its files do not show it.")
]
ParamOption = Annotated[
    list[str] | None, typer.Option("--param", help="Parameter of the data set, key=value; may be repeated.")
]
TaskOption = Annotated[str, typer.Option(help="What is learned, and so what labels are expected.")]
SplitSeedOption = Annotated[int, typer.Option(min=0, help="Of the splits.")]


@data_app.command("list")
@service_command
def list_data(service: ServiceOptions) -> None:
    """List the data sets that you have added."""
    with service.connect() as nas:
        render.out(nas.data_sets(), service.json_output, _draw_list)


@data_app.command("kinds")
@service_command
def list_kinds(service: ServiceOptions) -> None:
    """List the kinds of data sets that a spec can name."""
    with service.connect() as nas:
        render.out(nas.datasets(), service.json_output, lambda names: escape("\n".join(names)))


@data_app.command("add")
@service_command
def add_data(
    service: ServiceOptions,
    name: Annotated[str, typer.Argument(help="A name for the data set.", metavar="NAME")],
    path: Annotated[str, typer.Argument(help="A folder, a file or a URL; a .zip file is uploaded.", metavar="PATH")],
    upload: Annotated[
        bool, typer.Option("--upload", help="Send the files to the service, which then needs them no longer here.")
    ] = False,
    kind: KindOption = None,
    param: ParamOption = None,
    task: TaskOption = DEFAULT_TASK,
    seed: SplitSeedOption = 0,
) -> None:
    """Check a data set and give it a name, which specs use in place of its kind, path and parameters: `data: {name:
    NAME}`.

    The service reads the files where they lie, on its machine. With `--upload`, a folder or an .npz file of up to 2 GiB
    is sent there.

    Examples:

    - `nas data add signs photos/signs --param image_size=64`
    - `nas data add signs signs.zip`
    - `nas data add imagenet s3://bucket/imagenet --kind webdataset --param image_size=224`
    """
    options = {"task": task, "seed": seed, "params": key_values(param or [])}
    with service.connect() as nas:
        if upload or path.endswith(".zip"):
            with tempfile.TemporaryDirectory(prefix="hwnas-upload-") as folder:
                file = _packed(Path(path).expanduser(), Path(folder))
                uploaded = nas.upload_data(file)
            data = DataSpec.model_validate({"name": kind or uploaded.kind, "path": uploaded.path, **options})
        else:
            data = _spec(path, kind, options)
        render.out(nas.add_data(name, data), service.json_output, _draw_data)


@data_app.command("show")
@service_command
def show_data(service: ServiceOptions, name: DataName) -> None:
    """Show a data set with the account of its images, as of its last check."""
    with service.connect() as nas:
        render.out(nas.data_set(name), service.json_output, _draw_data)


@data_app.command("delete")
@service_command
def delete_data(
    service: Connection,
    name: DataName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete the name of a data set, and what was uploaded for it unless a search has read it."""
    with service.connect() as nas:
        nas.data_set(name)
        if not yes and not typer.confirm(f"Delete data set {name}?"):
            raise typer.Exit(FAILED)
        nas.delete_data(name)
    typer.echo(f"data set {name}: deleted")


@data_app.command("check")
@service_command
def check(
    service: ServiceOptions,
    path: Annotated[
        str,
        typer.Argument(
            help="A folder of images, an .npz file, Parquet, Arrow or tar files, or the name of a data set."
        ),
    ],
    kind: KindOption = None,
    param: ParamOption = None,
    task: TaskOption = DEFAULT_TASK,
    seed: SplitSeedOption = 0,
) -> None:
    """Read a data set of this machine as a search would, and print what becomes of every image, or all of its problems.
    Of a name, the service reads the data set again, and says whether it has changed.

    Exit status 2 for a data set that a search would refuse.

    Examples:

    - `nas data check photos --param image_size=32 --param skip_unreadable=3`
    - `nas data check signs`
    """
    if not (is_url(path) or "/" in path or "." in path or Path(path).exists()):
        with service.connect() as nas:
            result = nas.check_data(path)
        render.out(result, service.json_output, _draw_check)
        if result.problems:
            raise typer.Exit(BAD_INPUT)
        return
    spec = _spec(path, kind, {"task": task, "seed": seed, "params": key_values(param or [])})
    *_, report = check_data(spec)
    render.out(report, service.json_output, _report)
    if report.account is None:
        raise typer.Exit(BAD_INPUT)


@data_app.command("prepare")
def prepare_data(
    path: Annotated[str, typer.Argument(help="A folder or file of this machine, or a URL.")],
    kind: KindOption = None,
    param: ParamOption = None,
    task: TaskOption = DEFAULT_TASK,
    seed: SplitSeedOption = 0,
    processes: Annotated[int, typer.Option(min=1, help="How many read images at a time.")] = 2,
    json_output: JsonOption = False,
) -> None:
    """Prepare a large data set on this machine, so that no search has to. Interrupted, it goes on when it is begun
    again. A small one, which is read into memory, is only read.

    Example: `nas data prepare s3://bucket/imagenet --kind webdataset --param image_size=224`
    """
    from nas.datasets.prepared.processes import process_writer  # imports a second of libraries
    from nas.datasets.storage import Preparation, loading

    spec = _spec(path, kind, {"task": task, "seed": seed, "params": key_values(param or [])})
    with Progress(disable=json_output) as bars, process_writer(processes) as write:
        bar = bars.add_task("preparing")
        steps = loading(spec, Preparation(write=write))
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                account: DataAccount = end.value.account
                break
            bars.update(bar, completed=step.records, total=step.total)
    render.out(account, json_output, _draw_account)


@data_app.command("cache")
def show_cache(json_output: JsonOption = False) -> None:
    """List what the cache of this machine holds: prepared data sets and copies of remote files, the least recently used
    first. `HWNAS_DATA_CACHE_GB` limits it.
    """
    entries = cache_entries(cache_folder())
    render.out(entries, json_output, _draw_cache)


@data_app.command("free")
def free_cache(
    keep_gb: Annotated[
        float, typer.Option("--keep-gb", min=0, help="Stop when the cache takes no more than so much.")
    ] = 0.0,
    json_output: JsonOption = False,
) -> None:
    """Delete prepared data sets and copies of remote files from the cache of this machine, the least recently used
    first, and none that is in use. A search that needs one prepares it again.

    Example: `nas data free --keep-gb 20`
    """
    deleted = make_room(cache_folder(), round(keep_gb * 1e9))
    render.out(deleted, json_output, _draw_freed)


def _spec(path: str, kind: str | None, options: dict[str, object]) -> DataSpec:
    if is_url(path) and kind is None:
        raise InvalidInput(f"expected --kind, such as webdataset, beside a URL, got {path} alone")
    name = kind or usual_name(Path(path).expanduser())
    return DataSpec.model_validate({"name": name, "path": path, **options}).beside(Path.cwd())


def _packed(path: Path, folder: Path) -> Path:
    """A file to upload: the file itself, or a zip file of a folder."""
    if not path.is_dir():
        return path
    packed = folder / f"{path.resolve().name}.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(path))
    return packed


def _draw_list(data_sets: list[NamedDataSchema]) -> RenderableType:
    if not data_sets:
        return "no data sets yet; to add one: nas data add NAME PATH"
    table = render.grid("name", "kind", "images", "classes", "path", "owner")
    for data in data_sets:
        images = str(data.account.inputs) if data.account is not None else "?"
        cells = (data.name, data.data.name, images, str(data.shape.classes), data.data.path or "", data.owner)
        table.add_row(*map(escape, cells))
    return table


def _draw_cache(entries: list[CacheEntry]) -> RenderableType:
    if not entries:
        return f"nothing lies in {cache_folder()}"
    table = render.grid("what", "of", "size", "last used", "in use")
    for entry in entries:
        last_used = f"{datetime.fromtimestamp(entry.used_at, UTC):%Y-%m-%d %H:%M} UTC"
        cells = (entry.kind, entry.source or entry.path.name, formatting.size(entry.size_bytes), last_used)
        table.add_row(*map(escape, cells), "yes" if entry.in_use else "")
    limit = limit_bytes()
    of_limit = f" of {formatting.size(limit)}" if limit is not None else ""
    total = formatting.size(sum(entry.size_bytes for entry in entries))
    return Group(table, f"{total}{of_limit} in {cache_folder()}; to free some: nas data free")


def _draw_freed(deleted: list[CacheEntry]) -> RenderableType:
    size = formatting.size(sum(entry.size_bytes for entry in deleted))
    return f"freed {size}: {formatting.counted(len(deleted), 'folder')} of {cache_folder()}"


def _draw_data(data: NamedDataSchema) -> RenderableType:
    shape = data.shape
    head = f"[bold]{escape(data.name)}[/]  {data.data.name}, {shape.width}x{shape.height}x{shape.channels} pixels"
    where = escape(data.data.path or "part of the installation")
    if data.account is None:
        return Group(head, where, f"[yellow]not read in full:[/] {escape(data.incomplete)}")
    return Group(head, where, _draw_account(data.account))


def _draw_check(result: DataCheckSchema) -> RenderableType:
    if result.problems:
        return Group("[red]searches would refuse it[/]", *map(escape, result.problems))
    verdict = {True: "[yellow]changed[/]", False: "unchanged", None: "read in part only, so that nothing is compared"}
    return Group(verdict[result.changed], _draw_data(result.data))


def _report(report: DataReport) -> RenderableType:
    if report.account is None:
        count = len(report.problems)
        title = f"[red]{count} problem{'' if count == 1 else 's'}[/]" if count else "[red]cannot be read here[/]"
        return Group(title, *(escape(p) for p in report.problems or (report.incomplete,)))
    return _draw_account(report.account)


def _draw_account(account: DataAccount) -> RenderableType:
    lines: list[RenderableType] = [escape(s) for s in account_sentences(account)]
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in account.warnings]
    table = render.grid("class", *account.splits)
    for at, class_name in enumerate(account.class_names):
        table.add_row(escape(class_name), *(str(s.by_class[at]) for s in account.splits.values()))
    return Group(*lines, table, f"content hash {account.content_hash}")
