"""What a search has taught its device's predictor, and where it looked again."""

from __future__ import annotations

from nicegui import ui

from nas.schemas.jobs import EventSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text


def draw_learned(events: tuple[EventSchema, ...], device: str) -> None:
    """The ``refitted`` events of a search: each a version of the predictor."""
    if not events:
        return
    with div("card stack learned"):
        heading("What was fed back", 2)
        with div("timeline", "ol"):
            for event in events:
                _draw_refit(event, last=event is events[-1])
        with div("small"):
            ui.link("All versions of the predictor", f"/devices/{device}")


def _draw_refit(event: EventSchema, last: bool) -> None:
    body, record = event.body, event.body["record"]
    broken = body["broken"]
    with div(f"change {'paused' if broken else 'succeeded'}", "li"):
        with div("flow tight"):
            text(f"{formatting.counted(len(body['measured']), 'network')} measured", tag="b")
            text(f"predictor fitted to {record['card']['n']}", "small muted", "span")
        if broken:
            what = f"{formatting.counted(broken, 'network')} of the search broke the promised bound"
            then = "" if last else "; the search explored again around the hole, without training"
            text(formatting.sentence(what + then), "small")
        else:
            since = "" if body["number"] == 1 else " since"
            text(f"Every network of the search that was measured{since} kept the promised bound.", "small")
        used = "Later searches may use this version" if record["better"] else "Later searches do not use this version"
        text(formatting.sentence(f"{used}: {record['why']}"), "small muted")
        text(formatting.moment(event.at), "small muted num")
