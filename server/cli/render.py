"""What the command line prints on standard output: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nas.core.metrics import METRICS
from nas.core.views import (
    CardView,
    DeviceView,
    DryRunView,
    FrontView,
    PointView,
    SearchView,
    SpaceView,
    StrategyView,
)
from server.cli.scatter import scatter

V = TypeVar("V")
PIPED_WIDTH = 200  # a table takes what it needs of it; a terminal has its own width
_MARKS = {"verified": "[green]verified[/]", "violated": "[red]violated[/]", "unverified": "[yellow]unverified[/]"}


def out(value: V, as_json: bool, draw: Callable[[V], RenderableType]) -> None:
    """Prints a result on standard output. Of what ``draw`` returns, texts may hold markup."""
    if as_json:
        sys.stdout.write(json.dumps(_plain(value)) + "\n")
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    drawn = draw(value)
    console.print(drawn, soft_wrap=isinstance(drawn, str))


def searches(items: Sequence[SearchView]) -> RenderableType:
    """A table of searches."""
    if not items:
        return "No searches yet. Begin with: nas devices add this-machine, and then: nas submit --watch"
    table = Table("id", "name", "device", "status", "stage", "front", "verified", "hypervolume", "random")
    for s in items:
        stage = next((x.name for x in s.stages if x.status == "running"), "")
        volumes = ["" if v is None else f"{v:.4f}" for v in (s.hypervolume, s.baseline_hypervolume)]
        table.add_row(
            s.id, escape(s.spec.name), s.spec.device, s.status, stage, str(s.front_size), str(s.verified), *volumes
        )
    return table


def search(s: SearchView) -> RenderableType:
    """One search with its stages."""
    lines: list[RenderableType] = [f"[bold]{escape(s.spec.name)}[/] ({s.id}) on {s.spec.device}: [bold]{s.status}[/]"]
    if s.parent:
        lines.append(f"on the supernet of {s.parent}")
    if s.eta_s is not None and s.status in ("queued", "running"):
        lines.append(f"about {s.eta_s:.0f} s left")
    if s.error:
        lines.append(f"[red]{escape(s.error)}[/]")
    table = Table("stage", "status", "done", "seconds")
    for x in s.stages:
        table.add_row(x.name, x.status, f"{x.done}/{x.total} {x.unit}" if x.total else "", f"{x.seconds:.1f}")
    lines.append(table)
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in s.warnings]
    if s.hypervolume is not None and s.baseline_hypervolume is not None:
        lines.append(f"hypervolume {s.hypervolume:.4f}, random search {s.baseline_hypervolume:.4f}")
    return Group(*lines)


def front(f: FrontView) -> RenderableType:
    """The front as a table, whose columns say what kind of evidence they hold, and as a chart."""
    if not f.points:
        return "No front yet."
    title = "Pareto front" if f.final else "Pareto front so far (nothing measured yet)"
    names = ["test_accuracy", "val_accuracy", "predicted_ms", "upper_ms", "measured_ms", "params", "macs"]
    shown = [n for n in names if any(n in p.metrics for p in f.points)]
    table = Table("network", title=title)
    for n in shown:
        info = METRICS[n]
        table.add_column("\n".join(x for x in (info.label, info.unit, f"({info.kind})") if x), justify="right")
    table.add_column("status")
    for p in f.points:
        table.add_row(p.arch, *(_number(p, n) for n in shown), _MARKS[p.status])
    lines: list[RenderableType] = [table]
    if chart := scatter(f):
        lines.append(escape(chart))
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
    lines += [f"[red]{escape(p)}[/]" for p in d.problems]
    table = Table("metric", "lowest", "highest", title=f"{d.space_size:.3g} networks, {d.sampled} looked at")
    for name, (low, high) in d.ranges.items():
        info = METRICS.get(name)
        label = name if info is None else f"{info.label}{f', {info.unit}' if info.unit else ''} ({info.kind})"
        table.add_row(label, f"{low:,.4g}", f"{high:,.4g}")
    lines.append(table)
    if d.lowest_reachable_ms is not None:
        lines.append(f"the lowest latency bound that can be met is {d.lowest_reachable_ms:.4g} ms")
    if d.feasible_share is not None:
        lines.append(f"{d.feasible_share:.1%} of random networks meet the bounds")
    return Group(*lines)


def devices(items: Sequence[DeviceView]) -> RenderableType:
    """A table of devices."""
    if not items:
        return "No devices yet. Add the machine the service runs on with: nas devices add this-machine"
    table = Table("name", "status", "processor", "runtime", "predictors")
    for d in items:
        profile = d.profile or {}
        runtime = f"{profile.get('runtime', '')} {profile.get('runtime_version', '')}"
        table.add_row(d.name, d.status, escape(str(profile.get("processor", ""))), runtime, str(len(d.predictors)))
    return table


def device(d: DeviceView) -> RenderableType:
    """One device with its cards."""
    lines: list[RenderableType] = [f"[bold]{d.name}[/]: {d.status}"]
    if d.error:
        lines.append(f"[red]{escape(d.error)}[/]")
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in d.warnings]
    if d.profile:
        threads = d.profile["protocol"]["threads"]
        lines.append(
            escape(
                f"{d.profile['processor']}, {d.profile['cores']} cores, {d.profile['runtime']} "
                f"{d.profile['runtime_version']}, {threads} thread{'' if threads == 1 else 's'}"
            )
        )
    lines += [card(c) for c in d.predictors]
    return Group(*lines)


def predictors(items: Sequence[CardView]) -> RenderableType:
    """A table of predictor cards."""
    if not items:
        return "No latency predictors yet. Adding a device fits one: nas devices add this-machine"
    table = Table("id", "device", "space", "family", "networks", "MAPE %", "Spearman", "coverage", "range ms")
    for c in items:
        low, high = c.range_ms
        figures = f"{c.mape:.2f}", f"{c.spearman:.4f}", f"{c.coverage:.1%}", f"{low:.4g} to {high:.4g}"
        table.add_row(c.id, c.device, c.space, c.family, str(c.n), *figures)
    return table


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
        table.add_row(s.name, ", ".join(s.presets), escape(s.summary))
    return table


def strategies(items: Sequence[StrategyView]) -> RenderableType:
    """A table of strategies."""
    table = Table("name", "parameters", "summary")
    for s in items:
        table.add_row(s.name, escape("\n".join(f"{k} = {v}" for k, v in s.params.items())), escape(s.summary))
    return table


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
