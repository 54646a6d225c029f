"""What the command line prints: tables and progress for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from nas.client import Client
from nas.core.views import (
    CardView,
    DeviceView,
    DryRunView,
    EventView,
    FrontView,
    JobView,
    PointView,
    SearchView,
    SpaceView,
    StrategyView,
)

V = TypeVar("V")
_MARKS = {"verified": "[green]verified[/]", "violated": "[red]violated[/]", "unverified": "[yellow]unverified[/]"}


def progress_console() -> Console:
    """Where progress goes: standard error, so that standard output holds results only."""
    return Console(stderr=True)


def out(value: V, as_json: bool, draw: Callable[[V], RenderableType]) -> None:
    """Prints a result on standard output."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(value)) + "\n")
    else:
        Console().print(draw(value))


def searches(items: Sequence[SearchView]) -> RenderableType:
    """A table of searches."""
    if not items:
        return "No searches yet. Begin with `nas devices add this-machine`, then `nas submit --watch`."
    table = Table("id", "name", "status", "stage", "front", "verified", "hypervolume", "random")
    for s in items:
        stage = next((x.name for x in s.stages if x.status == "running"), "")
        hv = "" if s.hypervolume is None else f"{s.hypervolume:.4f}"
        base = "" if s.baseline_hypervolume is None else f"{s.baseline_hypervolume:.4f}"
        table.add_row(s.id, s.spec.name, s.status, stage, str(s.front_size), str(s.verified), hv, base)
    return table


def search(s: SearchView) -> RenderableType:
    """One search with its stages."""
    lines: list[RenderableType] = [f"[bold]{s.spec.name}[/] ({s.id}) on {s.spec.device}: [bold]{s.status}[/]"]
    if s.parent:
        lines.append(f"on the supernet of {s.parent}")
    if s.error:
        lines.append(f"[red]{s.error}[/]")
    table = Table("stage", "status", "done", "seconds")
    for x in s.stages:
        table.add_row(x.name, x.status, f"{x.done}/{x.total} {x.unit}" if x.total else "", f"{x.seconds:.1f}")
    lines.append(table)
    lines += [f"[yellow]warning:[/] {w}" for w in s.warnings]
    if s.hypervolume is not None and s.baseline_hypervolume is not None:
        lines.append(f"hypervolume {s.hypervolume:.4f}, random search {s.baseline_hypervolume:.4f}")
    return Group(*lines)


def front(f: FrontView) -> RenderableType:
    """The front as a table; every column says what kind of evidence it holds."""
    if not f.points:
        return "No front yet."
    title = "Pareto front" if f.final else "Pareto front so far (nothing measured yet)"
    names = ["test_accuracy", "val_accuracy", "predicted_ms", "upper_ms", "measured_ms", "params", "macs"]
    shown = [n for n in names if any(n in p.metrics for p in f.points)]
    table = Table(title=title)
    table.add_column("network")
    sample = {n: next(p.metrics[n] for p in f.points if n in p.metrics) for n in shown}
    for n in shown:
        unit = f" {sample[n].unit}" if sample[n].unit else ""
        table.add_column(f"{n.removesuffix('_ms').replace('_', ' ')}{unit}\n({sample[n].kind})", justify="right")
    table.add_column("status")
    for p in f.points:
        table.add_row(p.arch, *(_number(p, n) for n in shown), _MARKS[p.status])
    lines: list[RenderableType] = [table]
    if f.hypervolume is not None and f.baseline_hypervolume is not None:
        what = "measured" if f.final else "estimated and predicted"
        lines.append(
            f"hypervolume ({what}): [bold]{f.hypervolume:.4f}[/]; random search at the same budget: "
            f"{f.baseline_hypervolume:.4f} with {len(f.baseline)} networks"
        )
    return Group(*lines)


def dry_run(d: DryRunView) -> RenderableType:
    """Feasibility and ranges."""
    lines: list[RenderableType] = ["[green]feasible[/]" if d.feasible else "[red]not feasible[/]"]
    lines += [f"[red]{p}[/]" for p in d.problems]
    table = Table("metric", "lowest", "highest", title=f"{d.space_size:.3g} networks, {d.sampled} looked at")
    for name, (low, high) in d.ranges.items():
        table.add_row(name, f"{low:.4g}", f"{high:.4g}")
    lines.append(table)
    if d.feasible_share is not None:
        lines.append(f"{d.feasible_share:.1%} of random networks meet the bounds")
    return Group(*lines)


def devices(items: Sequence[DeviceView]) -> RenderableType:
    """A table of devices."""
    if not items:
        return "No devices yet. Add the machine the service runs on with `nas devices add this-machine`."
    table = Table("name", "status", "processor", "runtime", "predictors")
    for d in items:
        profile = d.profile or {}
        runtime = f"{profile.get('runtime', '')} {profile.get('runtime_version', '')}"
        table.add_row(d.name, d.status, str(profile.get("processor", "")), runtime, str(len(d.predictors)))
    return table


def device(d: DeviceView) -> RenderableType:
    """One device with its cards."""
    lines: list[RenderableType] = [f"[bold]{d.name}[/]: {d.status}"]
    if d.error:
        lines.append(f"[red]{d.error}[/]")
    if d.profile:
        lines.append(
            f"{d.profile['processor']}, {d.profile['cores']} cores, {d.profile['runtime']} "
            f"{d.profile['runtime_version']}, {d.profile['protocol']['threads']} thread(s)"
        )
    lines += [card(c) for c in d.predictors]
    return Group(*lines)


def card(c: CardView) -> RenderableType:
    """A predictor card."""
    table = Table(title=f"{c.family} for {c.space} ({c.held_out} held-out networks)", show_header=False)
    table.add_row("measured networks used", str(c.n))
    table.add_row("error (MAPE)", f"{c.mape:.2f} %")
    table.add_row("rank correlation (Spearman, Kendall)", f"{c.spearman:.4f}, {c.kendall:.4f}")
    table.add_row("coverage of the 95 % upper bound", f"{c.coverage:.1%}")
    table.add_row("range", f"{c.range_ms[0]:.4f} to {c.range_ms[1]:.4f} ms")
    return table


def spaces(items: Sequence[SpaceView]) -> RenderableType:
    """A table of search spaces."""
    table = Table("name", "presets", "summary")
    for s in items:
        table.add_row(s.name, ", ".join(s.presets), s.summary)
    return table


def strategies(items: Sequence[StrategyView]) -> RenderableType:
    """A table of strategies."""
    table = Table("name", "parameters", "summary")
    for s in items:
        table.add_row(s.name, "\n".join(f"{k} = {v}" for k, v in s.params.items()), s.summary)
    return table


def follow_search(nas: Client, search_id: str) -> SearchView:
    """Shows a bar per stage until the search has ended."""
    _follow(nas.watch(search_id), lambda: nas.search(search_id))
    return nas.search(search_id)


def follow_device(nas: Client, name: str) -> DeviceView:
    """Shows a bar per stage until the device's onboarding has ended."""
    _follow(nas.watch_device(name), lambda: nas.device(name))
    return nas.device(name)


def _follow(events: Iterable[EventView], look: Callable[[], JobView]) -> None:
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=progress_console()) as bars:
        tasks: dict[str, TaskID] = {}

        def bar(stage: str) -> TaskID:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1, note="")
            return tasks[stage]

        for event in events:
            body = event.body
            match body["kind"]:
                case "stage_started":
                    bar(body["stage"])
                case "progress":
                    values = ", ".join(f"{k} {v:.4g}" for k, v in body["values"].items())
                    note = ", ".join(x for x in (body["message"], values) if x)
                    bars.update(bar(body["stage"]), completed=body["done"], total=max(1, body["total"]), note=note)
                case "stage_finished":
                    task = bars.tasks[list(tasks).index(body["stage"])] if body["stage"] in tasks else None
                    total = task.total if task is not None and task.total else 1
                    bars.update(bar(body["stage"]), completed=total, note=f"{body['seconds']:.1f} s")
                case "warned":
                    bars.console.print(f"[yellow]warning:[/] {body['message']}")
                case _:
                    pass


def _number(point: PointView, name: str) -> str:
    metric = point.metrics.get(name)
    if metric is None:
        return ""
    if metric.unit == "%":
        return f"{metric.value:.2f}"
    return f"{metric.value:.4f}" if metric.unit == "ms" else f"{metric.value:,.0f}"


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
