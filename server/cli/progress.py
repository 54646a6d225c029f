"""Progress of a running job on standard error: a bar per stage on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from nas.client import Client
from nas.schemas.devices import DeviceSchema
from nas.schemas.jobs import EventSchema, JobSchema, StageSchema
from nas.schemas.searches import SearchSchema
from nas.schemas.user_models import UserModelDetailSchema
from server.cli.render import console
from server.dashboard import formatting

_REFRESH_S = 5.0  # at least, between two looks at what is left of the whole job
_WHOLE = "in all"


def progress_console() -> Console:
    """Where progress goes: standard error, so that standard output holds results only."""
    return console(sys.stderr)


def follow_search(nas: Client, search_id: str) -> SearchSchema:
    """Show the stages of a search until it has ended."""
    search = nas.search(search_id)
    follow(search, nas.watch(search_id, search.last_event), lambda: nas.search(search_id))
    return nas.search(search_id)


def follow_device(nas: Client, name: str) -> DeviceSchema:
    """Show the stages of a device's onboarding until it has ended."""
    device = nas.device(name)
    follow(device, nas.watch_device(name, device.last_event), lambda: nas.device(name))
    return nas.device(name)


def follow_model(nas: Client, name: str) -> UserModelDetailSchema:
    """Show the stages of a model's intake until it has ended."""
    model = nas.model(name)
    follow(model, nas.watch_model(name, model.last_event), lambda: nas.model(name))
    return nas.model(name)


def follow(
    job: JobSchema,
    events: Iterable[EventSchema],
    fetch: Callable[[], JobSchema],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show the stages of ``job`` and the ``events`` after it, and what is left of the whole job as ``fetch`` says."""
    screen = progress_console()
    columns = (
        TextColumn("{task.description:>9}", table_column=Column(no_wrap=True)),
        BarColumn(20, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[counts]}", style="progress.download", table_column=Column(no_wrap=True)),
        _TimeLeft(Column(no_wrap=True)),
        _Note(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:
        stages = _Stages(bars)
        for stage in job.stages:
            stages.show(stage)
        refreshed_at = -math.inf
        for event in events:
            stages.apply(event)
            starts = event.body["kind"] == "stage_started"
            if starts or (screen.is_terminal and clock() >= refreshed_at + _REFRESH_S):
                stages.tell_time_left(fetch())
                refreshed_at = clock()


class _Stages:
    """The bars of stages by name, in the order in which they begin, and lines where there is no terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._screen = bars.console
        self._tasks: dict[str, TaskID] = {}

    def show(self, stage: StageSchema) -> None:
        """A stage as it is when following begins."""
        task = self._task(stage.name)
        if stage.status == "finished":
            _finish(self._bars, task, stage.seconds)
        else:
            _move(self._bars, task, stage.done, stage.total, stage.unit, _note(stage.message, stage.values))

    def apply(self, event: EventSchema) -> None:
        """An event that changes a bar or says something."""
        body = event.body
        match body["kind"]:
            case "stage_started":
                self._task(body["stage"])
                self._line(f"{body['stage']}: started ({body['position'] + 1} of {body['total']})")
            case "progress":
                if body["stage"] == "profile" and body["message"]:  # what the machine lets expect
                    self._screen.print(f"profile: {escape(body['message'])}", soft_wrap=True)
                note = _note(body["message"], body["values"])
                _move(self._bars, self._task(body["stage"]), body["done"], body["total"], body["unit"], note)
            case "stage_finished":
                _finish(self._bars, self._task(body["stage"]), body["seconds"])
                self._line(f"{body['stage']}: finished after {body['seconds']:.1f} s")
            case "warned":
                self._screen.print(f"[yellow]warning:[/] {escape(body['message'])}", soft_wrap=True)
            case _:
                pass

    def tell_time_left(self, job: JobSchema) -> None:
        """What is left of the job: below the bars, or as a line."""
        text = formatting.time_left(job) if job.status == "running" else ""
        if self._screen.is_terminal:
            task = self._task(_WHOLE, visible=bool(text))
            self._bars.update(task, visible=bool(text), note=escape(text))
        elif text:
            self._line(text)

    def _task(self, name: str, *, visible: bool = True) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=1.0, note="", counts="", visible=visible)
        return self._tasks[name]

    def _line(self, text: str) -> None:
        if not self._screen.is_terminal:
            self._screen.print(text, soft_wrap=True)


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
