"""Events in words, for the log of a job."""

from __future__ import annotations

from typing import Literal

from nas.core.errors import InvalidInput
from nas.core.events import (
    Checkpoint,
    Concluded,
    EncodedEvent,
    Event,
    Exported,
    Measured,
    MeasurementsWanted,
    Progress,
    Refitted,
    StageFinished,
    StageStarted,
    StatusChanged,
    Warned,
    decode,
)

LogLevel = Literal["info", "warning", "error"]


def describe(event: Event) -> str | None:
    """One line on an event; None for one that says nothing alone, such as an evaluated candidate."""
    match event:
        case StatusChanged(before, after, reason, by):
            change = after if before is None else f"{before} -> {after}"
            return change + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
        case StageStarted(stage, position, total):
            return f"{stage}: started ({position + 1} of {total})"
        case StageFinished(stage, seconds, _):
            return f"{stage}: finished after {seconds:.1f} s"
        case Progress(stage, done, total, unit, _, message) if message:
            return f"{stage}: {message} ({done}/{total} {unit})"
        case Warned(stage, message):
            return f"{stage}: warning: {message}"
        case Checkpoint(stage, step, _):
            return f"{stage}: checkpoint at {step}"
        case MeasurementsWanted(stage, profile, networks):
            return f"{stage}: {len(networks)} to be measured by the agent of {profile.name}"
        case Measured(arch, origin, measurement, promised_ms, device):
            where = f" on {device}" if device is not None else ""
            promised = "" if promised_ms is None else f", promised {promised_ms:.4f} ms"
            result = measurement.refused or f"{measurement.median_ms:.4f} ms{promised}"
            return f"measured {arch.id} of the {origin}{where}: {result}"
        case Refitted(stage, number, measured, _, _, _):
            return f"{stage}: the predictor was fitted for the {number}. time, with {len(measured)} measured candidates"
        case Concluded(conclusions):
            return "; ".join(conclusion.message for conclusion in conclusions)
        case Exported(arch, name, _, _, _, _):
            return f"exported {arch.id}: {name}"
        case _:
            return None


def describe_record(record: EncodedEvent) -> str | None:
    """One line on a stored event; of a kind that this version does not know, its kind alone."""
    try:
        return describe(decode(record))
    except InvalidInput:
        return f"event {record.get('kind')}"


def level_of(record: EncodedEvent) -> LogLevel:
    """How much an event matters to a reader."""
    match record.get("kind"):
        case Warned.kind | Concluded.kind:
            return "warning"
        case StatusChanged.kind:
            return "error" if record.get("after") in ("failed", "quarantined") else "info"
        case _:
            return "info"
