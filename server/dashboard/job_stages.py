"""The bar of stages, the same for searches and for the onboarding of devices."""

from __future__ import annotations

from collections.abc import Iterable

from nas.core.lifecycle import JobStatus
from nas.schemas.jobs import StageSchema
from server.dashboard import formatting
from server.dashboard.elements import div, progress_bar, text

_STAGE_GLYPHS = {"finished": "✓", "running": "▸", "waiting": "·"}
_JOB_GLYPHS = {"running": "▸", "pausing": "▸", "paused": "‖", "queued": "○"}  # of the stage that a job has begun


def draw_stages(stages: tuple[StageSchema, ...], time_left: str, status: JobStatus) -> None:
    """Every stage with its progress; the running one with its live readings."""
    if not stages:
        return
    with div("card"):
        with div("stages"):
            for stage in stages:
                with div(f"stage {stage.status}{' cut' if is_cut_off(stage) else ''}"):
                    progress_bar(formatting.fraction(stage))
                    with div("title"):
                        is_running = stage.status == "running"
                        glyph = _JOB_GLYPHS.get(status, "✕") if is_running else _STAGE_GLYPHS[stage.status]
                        glyph = "◐" if is_cut_off(stage) else glyph
                        text(glyph, tag="span")
                        text(stage.name, tag="span")
                    for line in _stage_lines(stage):
                        text(line, "note")
        if time_left and status == "running":
            text(formatting.sentence(time_left), "small muted").style("margin-top: .8rem")


def is_cut_off(stage: StageSchema) -> bool:
    """Whether a stage has ended before all was done, as at the time limit of a search."""
    return stage.status == "finished" and stage.done < stage.total


def _stage_lines(stage: StageSchema) -> Iterable[str]:
    if stage.status == "running" and stage.total:
        yield f"{stage.done} of {stage.total} {stage.unit}".strip()
    if is_cut_off(stage):
        yield f"ended after {stage.done} of {stage.total} {stage.unit}".strip()
    if stage.seconds and stage.status != "waiting":
        yield formatting.duration(stage.seconds)
    if stage.status == "running":
        for name, value in stage.values.items():
            yield f"{formatting.label(name)} {formatting.reading(name, value)}"
        if stage.message:
            yield stage.message
