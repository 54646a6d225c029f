"""When the stages and the attempts of a search ran, as bars over time. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nas.core.events import StageFinished, StageStarted, StatusChanged
from nas.core.lifecycle import LEASED
from nas.schemas.jobs import EventSchema

KINDS = (StatusChanged.kind, StageStarted.kind, StageFinished.kind)


@dataclass(frozen=True)
class TimelineBar:
    """Something that lasted: a stage in one attempt, or an attempt. ``complete``: a stage that came to its end."""

    row: str
    begins_at: datetime
    ends_at: datetime
    complete: bool

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.ends_at - self.begins_at).total_seconds()


def timeline_bars(events: Sequence[EventSchema], now: datetime) -> list[TimelineBar]:
    """The attempts, and the stages of each attempt, from the events of ``KINDS`` in their order. What runs still ends
    ``now``; a stage that lost its worker ends with its attempt."""
    bars: list[TimelineBar] = []
    attempt, begun_at = 0, None
    stage: tuple[str, datetime] | None = None
    for event in sorted(events, key=lambda e: e.seq):
        body, at = event.body, event.at
        match body["kind"]:
            case StageStarted.kind:
                stage = (body["stage"], at)
            case StageFinished.kind:
                if stage is not None and stage[0] == body["stage"]:
                    bars.append(TimelineBar(stage[0], stage[1], at, complete=True))
                    stage = None
            case StatusChanged.kind:
                is_running = body["after"] in LEASED
                if is_running and begun_at is None:
                    attempt, begun_at = attempt + 1, at
                elif not is_running and begun_at is not None:
                    if stage is not None:
                        bars.append(TimelineBar(stage[0], stage[1], at, complete=False))
                        stage = None
                    bars.append(TimelineBar(f"attempt {attempt}", begun_at, at, body["after"] == "succeeded"))
                    begun_at = None
    if stage is not None:
        bars.append(TimelineBar(stage[0], stage[1], now, complete=False))
    if begun_at is not None:
        bars.append(TimelineBar(f"attempt {attempt}", begun_at, now, complete=False))
    return bars


def rows_of(bars: Sequence[TimelineBar]) -> list[tuple[str, list[TimelineBar]]]:
    """The bars by row: attempts first, then stages in the order in which they began."""
    ordered = sorted(bars, key=lambda bar: (not bar.row.startswith("attempt "), bar.begins_at))
    rows = dict.fromkeys(bar.row for bar in ordered)
    return [(row, [bar for bar in ordered if bar.row == row]) for row in rows]
