"""Commands on data sets. The check reads files of this machine and needs no service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from nas.core.data_account import account_sentences
from nas.core.spec import DataSpec
from nas.core.tasks import DEFAULT_TASK
from nas.datasets.check import DataReport, check_data, usual_name
from server.cli import render
from server.cli.commands.devices import key_values
from server.cli.lazy import BAD_INPUT, MARKUP
from server.cli.options import JsonOption, ServiceOptions, service_command

data_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    help="Data sets: their kinds, and the check of one before a search.",
)


@data_app.command("list")
@service_command
def list_kinds(service: ServiceOptions) -> None:
    """List the kinds of data sets that a spec can name."""
    with service.connect() as nas:
        render.out(nas.datasets(), service.json_output, lambda names: escape("\n".join(names)))


@data_app.command("check")
def check(
    path: Annotated[Path, typer.Argument(help="A folder of images, an .npz file, or Parquet.")],
    name: Annotated[str | None, typer.Option("--name", help="Kind of data set, if its files do not show it.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="Parameter of the data set, key=value; may be repeated.")
    ] = None,
    task: Annotated[str, typer.Option(help="What is learned, and so what labels are expected.")] = DEFAULT_TASK,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits.")] = 0,
    json_output: JsonOption = False,
) -> None:
    """Read a data set as a search would, and print what becomes of every image, or all of its problems.

    Exit status 2 for a data set that a search would refuse.

    Example: `nas data check photos --param image_size=32 --param skip_unreadable=3`
    """
    kind, params = name or usual_name(path), key_values(param or [])
    spec = DataSpec(name=kind, path=str(path), task=task, params=params, seed=seed)
    *_, report = check_data(spec.beside(Path.cwd()))
    render.out(report, json_output, _report)
    if report.account is None:
        raise typer.Exit(BAD_INPUT)


def _report(report: DataReport) -> RenderableType:
    if report.account is None:
        count = len(report.problems)
        title = f"[red]{count} problem{'' if count == 1 else 's'}[/]" if count else "[red]cannot be read here[/]"
        return Group(title, *(escape(p) for p in report.problems or (report.incomplete,)))
    account = report.account
    lines: list[RenderableType] = [escape(s) for s in account_sentences(account)]
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in account.warnings]
    table = render.grid("class", *account.splits)
    for at, class_name in enumerate(account.class_names):
        table.add_row(escape(class_name), *(str(s.by_class[at]) for s in account.splits.values()))
    return Group(*lines, table, f"content hash {account.content_hash}")
