"""The output of commands on standard output: tables for people, JSON for programs.

The file is one list of small functions, one for each schema of the API, that share their tables, units and charts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TextIO, TypeVar

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nas.core.conclusion import Conclusion
from nas.core.cost_estimate import CostEstimate
from nas.core.data_account import account_sentences
from nas.core.device import DeviceProfile, Status
from nas.core.drift import Drift
from nas.core.metrics import METRICS, SHARES, attainable
from nas.core.tasks import installed_tasks
from nas.schemas.agents import AgentSchema
from nas.schemas.candidates import CandidateSchema, FrontSchema, fallback_sentences
from nas.schemas.devices import DeviceComparisonSchema, DeviceSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.schemas.predictors import PredictorCardSchema, PredictorVersionSchema
from nas.schemas.searches import SearchSchema
from nas.schemas.service import RuntimeSchema, SpaceSchema, StrategySchema, TaskSchema
from server.cli.scatter import scatter
from server.dashboard import formatting
from server.dashboard.devices.device_text import queue_entry_text
from server.dashboard.front_text import membership_note

V = TypeVar("V")
_JSON: TypeAdapter[object] = TypeAdapter(object)  # values of any type
PIPED_WIDTH = 200  # without a terminal; a table may be narrower
# The front must fit into 80 columns without cutting the ids of candidates, which users copy.
_HEADERS = {
    "proxy_score": "0-cost score",
    "predicted_ms": "latency",
    "upper_ms": "95% bound",
    "measured_ms": "latency",
    "predicted_share": "of bound",
    "upper_share": "95% bound",
    "measured_share": "of bound",
    "params": "params",
    "macs": "MACs",
    "peak_bytes": "peak memory",
    "model_bytes": "model size",
    "predicted_mj": "energy",
}
_IF_OBJECTIVE = ("proxy_score", "peak_bytes", "model_bytes", "predicted_mj")  # to save width
_MARKS: Mapping[Status, str] = {
    "verified": "[green]verified[/]",
    "violated": "[red]violated[/]",
    "unverified": "[yellow]unverified[/]",
    "fallback": "[yellow]fallback[/]",
}


def console(file: TextIO) -> Console:
    """A console on ``file``, as wide as the terminal or ``PIPED_WIDTH``."""
    return Console(file=file, highlight=False, width=None if file.isatty() else PIPED_WIDTH)


def out(value: V, as_json: bool, draw: Callable[[V], RenderableType]) -> None:
    """Print a result on standard output. Texts that ``draw`` returns may contain markup."""
    if as_json:
        sys.stdout.write(json.dumps(_JSON.dump_python(value, mode="json")) + "\n")
        return
    renderable = draw(value)
    console(sys.stdout).print(renderable, soft_wrap=isinstance(renderable, str))


def searches(items: Sequence[SearchSchema]) -> RenderableType:
    """A table of searches."""
    if not items:
        return "No searches yet. Begin with: nas devices add this-machine, and then: nas submit --watch"
    table = grid("id")
    table.add_column("name", overflow="ellipsis", min_width=8)  # the only one that gives way in a narrow terminal
    for name in ("device", "status", "stage", "verified", "volume", "random"):
        table.add_column(name, no_wrap=True)
    for s in items:
        stage = next((x.name for x in s.stages if x.status == "running"), "")
        volumes = ["" if v is None else f"{v:.4f}" for v in (s.hypervolume, s.baseline_hypervolume)]
        verified = f"{s.verified}/{s.front_size}" if s.front_size else ""
        table.add_row(s.id, escape(s.name), _devices(s), s.status, stage, verified, *volumes)
    return table


def _devices(s: SearchSchema) -> str:
    """The device of a search; of a fleet the first, and the number of the others."""
    first, *further = s.spec.devices
    return f"{first} +{len(further)}" if further else first


def more_pages(command: str, cursor: str | None) -> None:
    """Say on standard error, which programs do not read, that a list goes on, and print the command for what follows.

    ``cursor`` is None at the end of the list."""
    if cursor is not None:
        sys.stderr.write(f"There is more; the next page: {command} --cursor {cursor}\n")


def search(s: SearchSchema) -> RenderableType:
    """One search with its stages."""
    where = " and ".join(s.spec.devices)
    lines: list[RenderableType] = [f"[bold]{escape(s.spec.name)}[/] ({s.id}) on {where}: [bold]{s.status}[/]"]
    if s.parent:
        lines.append(f"on the supernet of {s.parent}")
    if s.status == "running" and (time_left := formatting.time_left(s)):
        lines.append(time_left)
    if s.error:
        lines.append(f"[red]{escape(s.error)}[/]")
    lines += [conclusion(c) for c in s.conclusions]
    if s.data is not None:
        lines += [escape(sentence) for sentence in account_sentences(s.data)]
    table = grid("stage", "status", "done", "seconds")
    for x in s.stages:
        table.add_row(x.name, x.status, f"{x.done}/{x.total} {x.unit}" if x.total else "", f"{x.seconds:.1f}")
    lines.append(table)
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in s.warnings]
    if s.rank_correlation is not None and s.rank_correlation.advice:
        lines.append(f"rank correlation: {escape(s.rank_correlation.advice)}")
    if s.extrapolated:
        lines.append(
            f"{s.extrapolated} of {s.evaluations} evaluated candidates lie outside the domain of the latency "
            f"predictor; {s.extrapolated_measured} of them were measured"
        )
    if s.spec.views == (None,) and s.hypervolume is not None and s.baseline_hypervolume is not None:
        lines.append(f"hypervolume {s.hypervolume:.4f}, random search {s.baseline_hypervolume:.4f}")
    if s.fleet:
        lines.append(_fleet(s))
    return Group(*lines)


def conclusion(c: Conclusion) -> str:
    """What a search comes to, where that is no front of networks that have learned."""
    return f"[yellow]{escape(c.message)}[/]"


def _fleet(s: SearchSchema) -> RenderableType:
    """The devices of a search, each with its front."""
    shared = s.spec.views == (None,)
    title = "one front, for the worst case; as each device has it:" if shared else "a front for each device:"
    table = grid("device", "bound ms", "front", "verified", "volume", "random", title=title)
    for m in s.fleet:
        bound = "" if m.bound_ms is None else f"{m.bound_ms:g}"
        volumes = ["" if v is None else f"{v:.4f}" for v in (m.hypervolume, m.baseline_hypervolume)]
        table.add_row(m.device, bound, str(m.front_size), str(m.verified), *volumes)
    return table


def _quality_headers() -> dict[str, str]:
    """The columns of the tasks' qualities; short, since the front must fit."""
    headers: dict[str, str] = {}
    for task in installed_tasks().values():
        name = "acc." if task.objective == "accuracy" else task.quality.title
        headers |= {task.tested: f"test {name}", task.estimated: f"val. {name}"}
    return headers


def front(f: FrontSchema, conclusions: Sequence[Conclusion] = ()) -> RenderableType:
    """What the search comes to, then the front as a table, whose headers name the kind of evidence, and as a chart."""
    if not f.members:
        return "\n".join(map(conclusion, conclusions)) or "No front yet."
    title = "Pareto front" if f.final else "Pareto front so far (nothing measured yet)"
    fleet = next((p.devices for p in f.members if p.devices), {})
    if fleet:
        title += f" on {f.device}" if f.device is not None else ", latency on the worst device"
    qualities = _quality_headers()
    headers = qualities | _HEADERS
    names = [n for n in headers if any(n in p.metrics for p in f.members)]
    columns = [n for n in names if n == f.quality.metric or n not in qualities]
    if "predicted_share" in columns:  # milliseconds are in the table by device
        columns = [n for n in columns if n not in SHARES]
    axes = [o.metric for o in f.objectives]
    columns = [n for n in columns if n in axes or n not in _IF_OBJECTIVE]
    table = grid("\n\nnetwork", title=title, padding=0)
    for n in columns:
        table.add_column(f"{headers[n]}\n{METRICS[n].unit}\n{_kind(f, n)}", justify="right", no_wrap=True)
    table.add_column("\n\nstatus", no_wrap=True)
    for p in f.members:
        table.add_row(p.arch, *(_number(p, n) for n in columns), _MARKS[p.status])
    for p in f.references:
        table.add_row(p.arch, *(_number(p, n) for n in columns), p.name or "reference", style="dim")
    lines: list[RenderableType] = [*map(conclusion, conclusions), table]
    if note := membership_note(f):
        lines.append(note)
    if outside := [p.arch for p in f.members if p.extrapolated and p.measurement is None]:
        lines.append(f"[yellow]outside the domain of the latency predictor, not measured:[/] {', '.join(outside)}")
    lines += _fallbacks(f.members)
    if fleet:
        lines.append(_by_device(f.members))
    if chart := scatter(f):
        lines.append(escape(chart))
    if f.hypervolume is not None and f.baseline_hypervolume is not None:
        predicted = any(o.objective == "latency" and o.kind != "measured" for o in f.objectives)
        evidence = "estimated and predicted" if not f.final else "latency not measured" if predicted else "measured"
        lines.append(
            f"hypervolume ({evidence}): [bold]{f.hypervolume:.4f}[/]; random search at the same budget: "
            f"{f.baseline_hypervolume:.4f} with {len(f.baseline)} networks"
        )
    return Group(*lines)


def candidates(items: Sequence[CandidateSchema]) -> RenderableType:
    """A table of candidates with all their metrics."""
    if not items:
        return "No candidates."
    headers = _quality_headers() | _HEADERS
    names = [n for n in headers if any(n in c.metrics for c in items)]
    table = grid("network")
    for n in names:
        kind = next(c.metrics[n].kind for c in items if n in c.metrics)
        table.add_column(f"{headers[n]}\n{METRICS[n].unit}\n{kind}", justify="right", no_wrap=True)
    for header in ("origin", "status", "front"):
        table.add_column(header, no_wrap=True)
    for c in items:
        table.add_row(
            c.arch, *(_number(c, n) for n in names), c.name or c.origin, _MARKS[c.status], "front" if c.on_front else ""
        )
    return Group(table, *_fallbacks(items))


def _fallbacks(items: Sequence[CandidateSchema]) -> list[RenderableType]:
    """The candidates of which another provider than the device's ran operators, which are named."""
    return [f"[yellow]fallback:[/] {escape(f'{c.arch} {where}')}" for c in items for where in fallback_sentences(c)]


def _by_device(points: Sequence[CandidateSchema]) -> RenderableType:
    """The latencies of every candidate on every device."""
    table = grid("network", "device", "predicted ms", "95% bound ms", "measured ms", "status", title="by device")
    for p in points:
        for name, part in p.devices.items():
            values = [part.metrics.get(m) for m in ("predicted_ms", "upper_ms", "measured_ms")]
            cells = ["" if v is None else f"{v.value:.4f}" for v in values]
            table.add_row(p.arch, name, *cells, _MARKS[part.status])
    return table


def dry_run(d: DryRunSchema) -> RenderableType:
    """Feasibility, ranges and costs."""
    lines: list[RenderableType] = ["[green]feasible[/]" if d.feasible else "[red]not feasible[/]"]
    lines += [f"[red]{escape(p)}[/]" for p in d.problems]
    table = grid("metric", "lowest", "highest", title=f"{d.space_size:.3g} networks, {d.sampled} looked at")
    for name, (low, high) in d.ranges.items():
        info = METRICS.get(name)
        kind = "" if info is None else d.kinds.get(name, info.kind)
        label = name if info is None else f"{info.label}{f', {info.unit}' if info.unit else ''} ({kind})"
        table.add_row(label, f"{low:,.4g}", f"{high:,.4g}")
    lines.append(table)
    if d.lowest_reachable_ms is not None:
        lines.append(f"the lowest latency bound that can be met is {attainable(d.lowest_reachable_ms, 4)} ms")
    if d.feasible_share is not None:
        lines.append(f"{d.feasible_share:.1%} of random networks meet the bounds")
    for r in d.fleet:
        least = (
            "" if r.lowest_reachable_ms is None else f"the lowest bound is {attainable(r.lowest_reachable_ms, 4)} ms"
        )
        share = "" if r.feasible_share is None else f"{r.feasible_share:.1%} of random networks meet its bounds"
        lines.append(escape(f"{r.device}: {', '.join(filter(None, (least, share))) or 'nothing is known'}"))
    if d.data is not None:
        lines += [escape(sentence) for sentence in account_sentences(d.data)]
        lines += [f"[yellow]warning:[/] {escape(w)}" for w in d.data.warnings]
    if d.cost is not None:
        lines.append(cost(d.cost))
    elif d.feasible and d.cost_missing:
        lines.append(f"[yellow]how long it takes is not known:[/] {escape(d.cost_missing)}")
    return Group(*lines)


def cost(c: CostEstimate) -> RenderableType:
    """The estimated cost of each stage and their sum."""
    timed = sum(s.timed for s in c.stages)
    title = f"{formatting.counted(timed, 'step')} timed on {c.worker}"
    table = grid("stage", "time", "from", "to", "steps", "memory", title=title)
    for s in c.stages:
        steps = f"{s.steps} {s.unit}" if s.unit else ""
        memory = formatting.size(s.memory_bytes) if s.memory_bytes is not None else ""
        table.add_row(s.stage, *map(_seconds, (s.seconds, s.low_s, s.high_s)), steps, memory)
    table.add_section()
    table.add_row("[bold]total[/]", *map(_seconds, (c.seconds, c.low_s, c.high_s)), "", formatting.size(c.memory_bytes))
    lines: list[RenderableType] = ["", table]
    lines += [f"{s.stage}: {escape(s.note)}" for s in c.stages if s.note]
    hours = f"{c.gpu_hours:.2g} GPU-hours, " if c.gpu_hours else ""
    hours += f"{formatting.size(c.gpu_memory_bytes)} of GPU memory, " if c.gpu_memory_bytes is not None else ""
    how = "every stage was timed" if c.confidence == "measured" else "[yellow]not every stage could be timed[/]"
    lines.append(f"{hours}{c.cpu_hours:.2g} CPU-hours, {formatting.counted(c.evaluations, 'evaluation')}; {how}")
    return Group(*lines)


def _seconds(value: float | None) -> str:
    return "?" if value is None else formatting.duration(value)


def devices(items: Sequence[DeviceSchema]) -> RenderableType:
    """A table of devices."""
    if not items:
        return "No devices yet. Add the machine the service runs on with: nas devices add this-machine"
    table = grid("name", "owner", "status", "processor", "runtime", "predictors")
    for d in items:
        processor, runtime = (d.profile.processor, _runtime(d.profile)) if d.profile is not None else ("", "")
        table.add_row(d.name, escape(d.owner), d.status, escape(processor), runtime, str(len(d.predictors)))
    return table


def _kind(f: FrontSchema, name: str) -> str:
    """The kind of evidence of a column, which depends on the device."""
    return next((p.metrics[name].kind for p in f.members if name in p.metrics), METRICS[name].kind)


def device(d: DeviceSchema) -> RenderableType:
    """One device with its cards."""
    lines: list[RenderableType] = [f"[bold]{d.name}[/]: {d.status}"]
    if d.error:
        lines.append(f"[red]{escape(d.error)}[/]")
    lines += [f"[yellow]warning:[/] {escape(w)}" for w in d.warnings]
    if d.profile is not None:
        cores = formatting.counted(d.profile.cores, "core")
        protocol = d.profile.protocol
        threads = formatting.counted(protocol.threads, "thread")
        way = f"{threads}, batch {protocol.batch}, {protocol.precision}"
        lines.append(escape(f"{d.profile.processor}, {cores}, {_runtime(d.profile)}, {way}"))
    lines += [f"[yellow]stale:[/] {escape(why)}. Add the device again" for why in d.stale]
    if d.agent is not None:
        state = "away" if d.agent.away else "there"
        doing = f", measuring {d.agent.measuring}" if d.agent.measuring else ""
        last_seen = f"{d.agent.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        waiting = f"{formatting.counted(d.agent.waiting, 'network')} waiting"
        name = "" if d.agent.name == d.name else f" {d.agent.name}"
        lines.append(f"agent{name}: {state}, last seen {last_seen}, {waiting}{doing}")
        lines += [f"  {escape(queue_entry_text(e))}" for e in d.agent.queue]
    if d.waiting:
        lines.append(escape(d.waiting))
    lines += [card(c) for c in d.predictors]
    return Group(*lines)


def agents(items: Sequence[AgentSchema]) -> RenderableType:
    """A table of agents."""
    if not items:
        return "No agents yet. Start one on the machine that is to be measured: nas-agent --server ADDRESS --name NAME"
    table = grid("name", "owner", "state", "last seen (UTC)", "waiting", "measuring", "processor", "versions")
    for a in items:
        table.add_row(
            a.name,
            escape(a.owner),
            "[yellow]away[/]" if a.away else "there",
            f"{a.seen_at:%Y-%m-%d %H:%M:%S}",
            str(a.waiting),
            a.measuring or "",
            escape(a.profile.processor),
            escape(", ".join(f"{name} {version}" for name, version in a.versions.items())),
        )
    return table


def predictors(items: Sequence[PredictorCardSchema]) -> RenderableType:
    """A table of predictor cards."""
    if not items:
        return "No latency predictors yet. Adding a device fits one: nas devices add this-machine"
    table = grid("id", "device", "space", "family", "networks", "MAPE", "Spearman", "coverage", "range ms")
    for c in items:
        low, high = c.range_ms
        accuracy = (
            formatting.figure(c.mape, ".2f", " %"),
            formatting.figure(c.spearman, ".4f"),
            formatting.figure(c.coverage, ".1%"),
        )
        figures = *accuracy, f"{low:.3g} to {high:.3g}"
        table.add_row(c.id, c.device, c.space, c.family, str(c.n), *figures)
    return table


def versions(items: Sequence[PredictorVersionSchema]) -> RenderableType:
    """A table of a device's predictor versions."""
    if not items:
        return "No versions yet: the device has no predictor."
    table = grid("version", "space", "family", "networks", "MAPE %", "Spearman", "coverage", "from", "used by", "")
    for v in items:
        table.add_row(
            f"{v.number}" + (" (in use)" if v.in_use else ""),
            v.space_name,
            v.family,
            str(v.networks),
            formatting.figure(v.mape, ".1f"),
            formatting.figure(v.spearman, ".3f"),
            formatting.figure(v.coverage, ".2f"),
            "onboarding" if v.before is None else f"search {v.search}" if v.search else "a search",
            str(len(v.searches)),
            "" if v.better else escape(f"not used: {v.why}"),
        )
    return table


def drift(d: Drift) -> RenderableType:
    """A sentence, and the sessions that it summarises."""
    if not d.sessions:
        return d.sentence
    table = grid("measured", "networks", "measured / predicted", "canary")
    for s in d.sessions:
        ratio = "-" if s.ratio is None else f"{s.ratio:.3f}"
        table.add_row(formatting.moment(s.at), str(s.networks), ratio, f"{s.canary:.3f}")
    return Group(d.sentence, table)


def comparison(c: DeviceComparisonSchema) -> RenderableType:
    """The comparison of two devices, and the differences of their profiles."""
    rank = "-" if c.spearman is None else f"{c.spearman:.3f}"
    lines: list[RenderableType] = [
        f"{len(c.pairs)} networks of {c.space_name}, {c.both_measured} of them measured on both devices",
        f"rank correlation (Spearman) {rank}; {c.second} takes {c.ratio:.2f} times as long as {c.first}",
        f"Kendall's tau {formatting.figure(c.kendall, '.3f')} "
        f"({formatting.tau_interval(c.kendall_interval, len(c.pairs))})",
    ]
    table = grid("", c.first, c.second)
    one, two = c.cards
    table.add_row("predictor", f"{one.family}, version {one.number}", f"{two.family}, version {two.number}")
    table.add_row("mean error", formatting.figure(one.mape, ".1f", " %"), formatting.figure(two.mape, ".1f", " %"))
    for d in c.differences:
        table.add_row(d.label, escape(d.first), escape(d.second))
    return Group(*lines, table)


def card(c: PredictorCardSchema) -> RenderableType:
    """A predictor card."""
    if c.kind == "estimated":
        return (
            f"{c.family} for {c.space}: fitted to estimates of {c.n} networks from peak figures, "
            f"{c.range_ms[0]:.4f} to {c.range_ms[1]:.4f} ms. Nothing was measured, so there is no accuracy to report"
        )
    table = Table(title=f"{c.family} for {c.space} ({c.held_out} held-out networks)", show_header=False)
    used = "networks of the uploaded table used" if c.source == "table" else "measured networks used"
    table.add_row(used, f"{c.n}; checked on {c.held_out} by a fit without them")
    table.add_row("error (MAPE)", formatting.figure(c.mape, ".2f", " %"))
    if (n := c.noise) is not None:
        levels = ", ".join(f"{level:.2f}" for level in n.levels)
        table.add_row(
            "noise floor of the device", f"{100 * n.floor:.1f} % (undisturbed {n.undisturbed:.0%} of the time)"
        )
        table.add_row("levels of speed, as times", levels)
        if c.measured_error:
            table.add_row("95 % intervals of the measurements", f"±{200 * fmean(c.measured_error):.1f} % on average")
        table.add_row("networks that could not be measured", str(n.refused))
    table.add_row("rank correlation (Spearman)", formatting.figure(c.spearman, ".4f"))
    interval = formatting.tau_interval(c.kendall_interval, c.held_out)
    table.add_row("rank correlation (Kendall's tau)", f"{formatting.figure(c.kendall, '.4f')} ({interval})")
    table.add_row("coverage of the 95 % upper bound", formatting.figure(c.coverage, ".1%"))
    table.add_row("range", f"{c.range_ms[0]:.4f} to {c.range_ms[1]:.4f} ms")
    if (choice := c.choice) is not None:
        for option in choice.options:
            error = f"{option.error:.1%} error, left out one by one; weight {option.weight:.0%}"
            table.add_row(f"learned by {option.name}", error)
        if choice.relatives:
            table.add_row("known devices", escape(", ".join(name or "unnamed" for name in choice.relatives)))
        if choice.advice:
            table.add_row("[yellow]advice[/]", escape(choice.advice))
    if c.as_written:
        table.add_row("networks", "measured as they are written, with parts that do nothing")
    if (e := c.energy) is not None:
        table.add_row("energy: networks used, held out", f"{e.n}, {e.held_out}")
        table.add_row("energy: error (MAPE), Spearman", f"{e.mape:.2f} %, {e.spearman:.4f}")
        table.add_row("energy: coverage of the 95 % upper bound", f"{e.coverage:.1%}")
    return table


def spaces(items: Sequence[SpaceSchema]) -> RenderableType:
    """A table of search spaces."""
    table = grid("name", "presets", "summary")
    for s in items:
        table.add_row(s.name, ", ".join(s.presets), escape(s.summary))
    return table


def tasks(items: Sequence[TaskSchema]) -> RenderableType:
    """A table of tasks."""
    table = grid("name", "quality", "unit", "better", "outputs", "summary")
    for t in items:
        better = "more" if t.goal == "max" else "less"
        table.add_row(t.name, escape(t.objective), escape(t.unit), better, t.outputs, escape(t.summary))
    return table


def strategies(items: Sequence[StrategySchema]) -> RenderableType:
    """A table of strategies."""
    table = grid("name", "parameters", "summary")
    for s in items:
        table.add_row(s.name, escape("\n".join(f"{k} = {v}" for k, v in s.params.items())), escape(s.summary))
    return table


def runtimes(items: Sequence[RuntimeSchema]) -> RenderableType:
    """A table of runtimes."""
    table = grid("name", "pip install", "summary")
    for r in items:
        table.add_row(r.name, escape(r.requirement), escape(r.summary))
    return table


def _runtime(profile: DeviceProfile) -> str:
    return f"{profile.runtime} {profile.runtime_version}"


def grid(first: str, *headers: str, title: str | None = None, padding: int = 1) -> Table:
    """A narrow table. The first column holds names and is never cut."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, padding, 0, 0)
    )
    table.add_column(first, no_wrap=True)
    for name in headers:
        table.add_column(name, overflow="fold")
    return table


def _number(point: CandidateSchema, name: str) -> str:
    metric = point.metrics.get(name)
    if metric is None:
        return ""
    match metric.unit:
        case "%":
            return f"{metric.value:.2f}"
        case "ms" | "mJ":
            return f"{metric.value:.4f}" if metric.value < 100 else f"{metric.value:.1f}"
        case _:
            return _count(metric.value)


def _count(value: float) -> str:
    """A rounded count such as ``4.24 M``; the JSON output is exact."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {suffix}" if value < 999.5 * size else f"{value / size:.0f} {suffix}"
    return f"{value:.0f}"
