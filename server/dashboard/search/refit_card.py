"""The refits of the device's predictor with the measurements of a search, and the refinement rounds that followed."""

from __future__ import annotations

from datetime import datetime

from nicegui import ui
from pydantic import BaseModel

from nas.core.events import Refitted
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text
from server.dashboard.search.view_model import LoggedEvent


class _RefitCard(BaseModel):
    """The part of a predictor's card that is shown: the number of architectures that it was fitted to."""

    n: int


class _RefitRecord(BaseModel):
    """The record of a refit: whether later searches may use the version, and why."""

    card: _RefitCard
    better: bool
    why: str


def draw_refits(refits: tuple[LoggedEvent[Refitted], ...], device: str) -> None:
    """Each refit is a version of the predictor."""
    if not refits:
        return
    with div("card stack learned"):
        heading("Predictor updates", 2)
        with div("timeline", "ol"):
            for logged in refits:
                _draw_refit(logged.event, logged.at, is_last=logged is refits[-1])
        with div("small"):
            ui.link("All versions of the predictor", f"/devices/{device}")


def _draw_refit(refit: Refitted, at: datetime, is_last: bool) -> None:
    record = _RefitRecord.model_validate(refit.record)
    with div(f"change {'paused' if refit.broken else 'succeeded'}", "li"):
        with div("flow tight"):
            text(f"{formatting.counted(len(refit.measured), 'candidate')} measured", tag="b")
            text(f"predictor fitted to {record.card.n}", "small muted", "span")
        if refit.broken:
            violations = f"{formatting.counted(refit.broken, 'candidate')} of the search violated the promised bound"
            followed = "" if is_last else "; the search explored again near them, without training"
            text(formatting.sentence(violations + followed), "small")
        else:
            since = "" if refit.number == 1 else " since the last update"
            text(f"Every candidate of the search that was measured{since} kept the promised bound.", "small")
        used = "Later searches may use this version" if record.better else "Later searches do not use this version"
        text(formatting.sentence(f"{used}: {record.why}"), "small muted")
        text(formatting.moment(at), "small muted num")
