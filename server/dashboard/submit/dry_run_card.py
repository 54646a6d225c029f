"""The result of a dry run: whether the bounds can be met, and what the search would cost."""

from __future__ import annotations

from nas.core.cost_estimate import CostEstimate, StageCost
from nas.core.data_account import account_sentences
from nas.core.metrics import attainable
from nas.schemas.dry_runs import DryRunSchema
from server.dashboard import formatting
from server.dashboard.elements import definition_list, div, heading, notice, progress_bar, text


def draw_dry_run(report: DryRunSchema | None, timed: bool) -> None:
    """``timed``: a worker was asked for the cost."""
    if report is None:
        return
    with div("card stack"):
        heading("Dry run", 2)
        if report.feasible:
            notice("good", "Feasible: architectures of this space can meet every bound")
        else:
            notice("bad", "Not feasible", report.problems or "No architecture can meet the bounds.")
        definition_list(_rows(report))
        if report.data is not None and report.data.warnings:
            notice("warn", "The data", list(report.data.warnings))
        if report.cost is not None:
            _draw_cost(report.cost)
        elif timed and report.feasible:
            notice("warn", "The duration is unknown", report.cost_missing or "")


def _rows(report: DryRunSchema) -> list[tuple[str, str]]:
    rows = [
        ("Size of the space", f"{formatting.huge(report.space_size)} architectures"),
        ("Stages", ", ".join(report.stages)),
    ]
    if report.lowest_reachable_ms is not None:
        lowest = attainable(report.lowest_reachable_ms, 4)
        rows.append(("Lowest reachable latency", f"{lowest} ms (upper bound)"))
    if report.feasible_share is not None:
        share = f"{report.feasible_share * 100:.1f} % of {report.sampled} sampled"
        rows.append(("Architectures within the bounds", share))
    for device in report.fleet:
        if device.lowest_reachable_ms is not None and device.feasible_share is not None:
            lowest = f"{attainable(device.lowest_reachable_ms, 4)} ms"
            share = f"{device.feasible_share * 100:.1f} % within its bounds"
            rows.append((f"On {device.device}", f"lowest {lowest}; {share}"))
    if report.data is not None:
        rows.append(("Data", " ".join(account_sentences(report.data))))
    for name, (low, high) in report.ranges.items():
        unit, kind = formatting.unit_and_kind(name)
        kind, label = report.kinds.get(name, kind), formatting.label(name)
        title = label if kind in label.lower() else f"{label} ({kind})"
        rows.append((title, f"{formatting.quantity(low, unit)} to {formatting.quantity(high, unit)}"))
    return [*rows, ("Spec", report.spec_hash[:16])]


def _draw_cost(cost: CostEstimate) -> None:
    """The duration of each stage with its range, and the stages whose duration is unknown."""
    heading(f"About {formatting.duration(cost.seconds)} on {cost.worker}", 2)
    duration_range = f"{formatting.duration(cost.low_s)} to {formatting.duration(cost.high_s)}"
    memory = f"{formatting.size(cost.memory_bytes)} of memory"
    if cost.gpu_memory_bytes is not None:
        memory += f", {formatting.size(cost.gpu_memory_bytes)} of the GPU's"
    text(f"{duration_range}; {memory}. Estimated from a few real steps of each stage.", "small muted")
    for stage in cost.stages:
        with div("stages"), div("stage finished"):
            progress_bar((stage.seconds or 0.0) / max(cost.seconds, 1e-9))
            with div("title"):
                text(f"{stage.stage}: {_stage_duration(stage)}", tag="span")
            if stage.note:
                text(stage.note, "note")
    gpu_hours = f" and {cost.gpu_hours:.2g} GPU-hours" if cost.gpu_hours else ""
    evaluations = f"{cost.evaluations} by the search, as many by random search"
    definition_list([("Computing time", f"{cost.cpu_hours:.2g} CPU-hours{gpu_hours}"), ("Evaluations", evaluations)])
    if cost.confidence == "partial":
        notice("warn", "The duration of some stages is unknown; sums do not include them")


def _stage_duration(stage: StageCost) -> str:
    if stage.seconds is None or stage.low_s is None or stage.high_s is None:
        return "unknown"
    if stage.high_s == 0:
        return "none"
    estimate, low, high = (formatting.duration(s) for s in (stage.seconds, stage.low_s, stage.high_s))
    steps = f", {stage.steps} {stage.unit}" if stage.unit else ""
    return f"{estimate} ({low} to {high}{steps})"
