"""Progress of a running job on standard error: a bar per stage on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from nas.client import Client
from nas.schemas.devices import DeviceSchema
from nas.schemas.jobs import EventSchema, JobSchema
from nas.schemas.searches import SearchSchema
from nas.schemas.user_models import UserModelDetailSchema
from server.cli.render import console


def progress_console() -> Console:
    """Where progress goes: standard error, so that standard output holds results only."""
    return console(sys.stderr)


def follow_search(nas: Client, search_id: str) -> SearchSchema:
    """Show the stages of a search until it has ended."""
    search = nas.search(search_id)
    follow(search, nas.watch(search_id, search.last_event))
    return nas.search(search_id)


def follow_device(nas: Client, name: str) -> DeviceSchema:
    """Show the stages of a device's onboarding until it has ended."""
    device = nas.device(name)
    follow(device, nas.watch_device(name, device.last_event))
    return nas.device(name)


def follow_model(nas: Client, name: str) -> UserModelDetailSchema:
    """Show the stages of a model's intake until it has ended."""
    model = nas.model(name)
    follow(model, nas.watch_model(name, model.last_event))
    return nas.model(name)


def follow(job: JobSchema, events: Iterable[EventSchema]) -> None:
    """Show the stages of ``job`` and the ``events`` after it."""
    screen = progress_console()
    columns = (
        TextColumn("{task.description:>9}", table_column=Column(no_wrap=True)),
        BarColumn(20, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[counts]}", style="progress.download", table_column=Column(no_wrap=True)),
        _TimeLeft(Column(no_wrap=True)),
        _Note(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def task_of(stage: str) -> TaskID:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0, note="", counts="")
            return tasks[stage]

        for s in job.stages:
            task = task_of(s.name)
            if s.status == "finished":
                _finish(bars, task, s.seconds)
            else:
                _move(bars, task, s.done, s.total, s.unit, _note(s.message, s.values))
        for event in events:
            body = event.body
            match body["kind"]:
                case "stage_started":
                    task_of(body["stage"])
                    if not screen.is_terminal:
                        screen.print(f"{body['stage']}: started ({body['position'] + 1} of {body['total']})")
                case "progress":
                    note = _note(body["message"], body["values"])
                    if body["stage"] == "profile" and body["message"]:  # what the machine lets expect
                        screen.print(f"profile: {escape(body['message'])}", soft_wrap=True)
                    _move(bars, task_of(body["stage"]), body["done"], body["total"], body["unit"], note)
                case "stage_finished":
                    _finish(bars, task_of(body["stage"]), body["seconds"])
                    if not screen.is_terminal:
                        screen.print(f"{body['stage']}: finished after {body['seconds']:.1f} s")
                case "warned":
                    screen.print(f"[yellow]warning:[/] {escape(body['message'])}", soft_wrap=True)
                case _:
                    pass


class _Note(ProgressColumn):
    """The newest message and values, cut where the terminal ends: the bars before keep their width."""

    def render(self, task: Task) -> Text:
        note = Text.from_markup(task.fields["note"])
        note.no_wrap, note.overflow = True, "ellipsis"
        return note


class _TimeLeft(ProgressColumn):
    """``0:01:20 left``, from the recent speed; empty before and after."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished or task.time_remaining is None:
            return Text("")
        return Text(f"{timedelta(seconds=int(task.time_remaining))} left", style="progress.remaining")


def _move(bars: Progress, task: TaskID, done: int, total: int, unit: str, note: str) -> None:
    counts = escape(f"{done}/{total} {unit}".rstrip()) if total else ""
    bars.update(task, completed=done, total=total or 1.0, counts=counts, note=note)


def _finish(bars: Progress, task: TaskID, seconds: float) -> None:
    bars.update(task, completed=1.0, total=1.0, note=f"{seconds:.1f} s")


def _note(message: str, values: Mapping[str, float]) -> str:
    readings = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items()]
    return escape(", ".join([message, *readings] if message else readings))
