"""How a device and its predictor became what they are: drift over time, and the versions of the predictor."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from nas.schemas.devices import DriftSchema
from nas.schemas.predictors import PredictorVersionSchema
from server.dashboard import charts, formatting
from server.dashboard.elements import div, heading, notice, text

_NEWEST = 10  # versions shown at once; the rest is folded away


def draw_drift(view: DriftSchema) -> None:
    """What was measured over what was expected, with a sentence."""
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            heading("Drift over time", 2)
            div("grow")
            text("network latency is measured with the canary's drift divided out", "small muted")
        if view.status == "drifting":
            notice("warn", "This device has drifted", view.sentence)
        else:
            text(view.sentence)
        if view.sessions:
            ui.echart(charts.drift(view), renderer="svg").classes("chart drift").props(
                'role="img" aria-label="Measured over expected latency over time"'
            )


def draw_versions(versions: Sequence[PredictorVersionSchema]) -> None:
    """A table of all versions, newest first."""
    if not versions:
        return
    with div("card stack"):
        heading("Versions of the predictor", 2)
        text(
            "A search feeds back what it has measured, which makes a version. None is ever changed, and a search keeps "
            "the one that it began with. A version that is worse by cross-validation is kept, but not used.",
            "small muted",
        )
        _draw_table(versions[:_NEWEST])
        if len(versions) > _NEWEST:
            with div("fold", "details"):
                text(formatting.counted(len(versions) - _NEWEST, "earlier version"), tag="summary")
                _draw_table(versions[_NEWEST:])
        text("MAPE, Spearman and coverage are over the same networks, held out at the onboarding.", "small muted")


def _draw_table(versions: Sequence[PredictorVersionSchema]) -> None:
    with div("scroll"), div("plain versions", "table"):
        with div(tag="thead"), div(tag="tr"):
            for head in ("Version", "Made", "From", "Networks", "MAPE", "Spearman", "Coverage", "Used by", ""):
                text(head, "whole", "th")
        with div(tag="tbody"):
            for version in versions:
                _draw_row(version)


def _draw_row(v: PredictorVersionSchema) -> None:
    with div(tag="tr"):
        with div("whole", "td"):
            text(str(v.number), "", "b")
            text(f" {v.space_name}, {v.family}", "small muted", "span")
        text(formatting.moment(v.created_at), "whole num", "td")
        with div(tag="td"):
            if v.before is None:
                text("onboarding", tag="span")
            elif v.search is None:
                text("a search", tag="span")
            else:
                ui.link(f"search {v.search[:12]}", f"/searches/{v.search}").classes("whole")
        text(str(v.networks or v.n), "whole num", "td")
        text(f"{v.mape:.1f} %", "whole num", "td")
        text(f"{v.spearman:.3f}", "whole num", "td")
        text(f"{v.coverage * 100:.0f} %", "whole num", "td")
        with div(tag="td"):
            for search in v.searches[-3:]:
                ui.link(search[:12], f"/searches/{search}").classes("mono small whole")
                text(" ", tag="span")
            if len(v.searches) > 3:
                text(f"and {len(v.searches) - 3} more", "small muted", "span")
            elif not v.searches:
                text(formatting.NONE, "muted", "span")
        with div(tag="td"):
            if v.in_use:
                text("in use", "badge verified", "span")
            elif not v.better:
                text("not used", "badge violated", "span")
            if v.why:
                text(formatting.sentence(v.why), "small muted")
