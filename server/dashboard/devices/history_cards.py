"""The drift of a device over time, and the versions of its predictors."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from nas.core.drift import Drift
from nas.schemas.predictors import PredictorVersionSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.drift import drift_chart
from server.dashboard.elements import div, heading, notice, text

_NEWEST = 10  # earlier versions are folded
_SEARCHES = 3  # links to the searches that used a version


def draw_drift(drift: Drift | None) -> None:
    """Measured over expected latency, with a summary in words."""
    if drift is None:
        return
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            heading("Drift over time", 2)
            div("grow")
            text("latencies are divided by the drift of the canary", "small muted")
        if drift.status == "drifting":
            notice("warn", "This device has drifted", drift.sentence)
        else:
            text(drift.sentence)
        if drift.sessions:
            labelled_chart(drift_chart(drift), "chart drift", "Measured over expected latency over time")


def draw_versions(versions: Sequence[PredictorVersionSchema]) -> None:
    """A table of all versions, newest first."""
    if not versions:
        return
    with div("card stack"):
        heading("Versions of the predictor", 2)
        text(
            "The measurements of a search are used to fit a further version. Versions never change, and a search uses "
            "the version that it began with. A version that is worse by cross-validation is stored, but not used.",
            "small muted",
        )
        _draw_table(versions[:_NEWEST])
        if len(versions) > _NEWEST:
            with div("fold", "details"):
                text(formatting.counted(len(versions) - _NEWEST, "earlier version"), tag="summary")
                _draw_table(versions[_NEWEST:])
        text("MAPE, Spearman and coverage are over the same architectures, held out at the onboarding.", "small muted")


def _draw_table(versions: Sequence[PredictorVersionSchema]) -> None:
    titles = ("Version", "Created", "Source", "Architectures", "MAPE", "Spearman", "Coverage", "Used by", "")
    with div("scroll"), div("plain versions", "table"):
        with div(tag="thead"), div(tag="tr"):
            for title in titles:
                text(title, "whole", "th")
        with div(tag="tbody"):
            for version in versions:
                _draw_row(version)


def _draw_row(version: PredictorVersionSchema) -> None:
    with div(tag="tr"):
        with div("whole", "td"):
            text(str(version.number), "", "b")
            text(f" {version.space_name}, {version.family}", "small muted", "span")
        text(formatting.moment(version.created_at), "whole num", "td")
        with div(tag="td"):
            if version.before is None:
                text("onboarding", tag="span")
            elif version.search is None:
                text("a search", tag="span")
            else:
                ui.link(f"search {version.search[:12]}", f"/searches/{version.search}").classes("whole")
        text(str(version.networks or version.n), "whole num", "td")
        text(formatting.figure(version.mape, ".1f", " %"), "whole num", "td")
        text(formatting.figure(version.spearman, ".3f"), "whole num", "td")
        text(formatting.figure(version.coverage, ".0%"), "whole num", "td")
        _draw_searches(version.searches)
        with div("reason" if version.why else "", "td"):
            if version.in_use:
                text("in use", "badge verified", "span")
            elif not version.better:
                text("not used", "badge violated", "span")
            if version.why:
                text(formatting.sentence(version.why), "small muted")


def _draw_searches(searches: Sequence[str]) -> None:
    with div(tag="td"):
        for search in searches[-_SEARCHES:]:
            ui.link(search[:12], f"/searches/{search}").classes("mono small whole")
            text(" ", tag="span")
        if len(searches) > _SEARCHES:
            text(f"and {len(searches) - _SEARCHES} more", "small muted", "span")
        elif not searches:
            text(formatting.MISSING, "muted", "span")
