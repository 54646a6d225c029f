"""Further views of a search, read when they are opened: decisions that matter, parallel coordinates, and a timeline."""

from __future__ import annotations

from datetime import UTC, datetime

from nicegui import events, ui

from nas.client import Client
from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema
from nas.schemas.jobs import EventSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.axes import metric_kinds
from server.dashboard.charts.importance import importance_chart
from server.dashboard.charts.parallel import parallel_chart, parallel_metrics
from server.dashboard.elements import div, text
from server.dashboard.lazy_fold import LazyFold
from server.dashboard.search.timeline import KINDS, TimelineBar, rows_of, timeline_bars
from server.dashboard.service_calls import call_service

_PAGE = 1000


class InsightCard:
    """A card with three folded parts. Hidden before the first candidate."""

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._search_id = client, search_id
        self._candidates: tuple[CandidateSchema, ...] = ()
        self._metric: str | None = None
        self._box = div("card stack")
        self._box.set_visibility(False)
        with self._box:
            self._importance = LazyFold("Which decisions matter", self._draw_importance)
            self._parallel = LazyFold("Parallel coordinates", self._draw_parallel)
            self._timeline = LazyFold("Timeline of stages and attempts", self._draw_timeline)

    def show(self, candidates: tuple[CandidateSchema, ...]) -> None:
        """Offer the views of these candidates; one that is open is drawn again when it is opened next."""
        self._candidates = candidates
        self._box.set_visibility(bool(candidates))

    async def _draw_importance(self) -> None:
        report = await call_service(self._client.importance, self._search_id, self._metric)
        self._importance.body.clear()
        names = {name: METRICS[name].label for name in metric_kinds(self._candidates)}
        with self._importance.body:
            choice = ui.select(names, value=report.metric, label="For").props("outlined dense").classes("decision")

            async def change(event: events.ValueChangeEventArguments[str]) -> None:
                self._metric = event.value
                await self._importance.redraw()

            choice.on_value_change(change)
            label = f"Importance of the decisions for {METRICS[report.metric].label}"
            labelled_chart(importance_chart(report), "chart", label)
            text(
                f"Over {report.networks} networks, the decisions explain {max(0.0, report.explained):.0%} of "
                f"{METRICS[report.metric].label.lower()} on networks that were left out. "
                + ("Where this is low, importances say little. " if report.explained < 0.5 else "")
                + "The search does not choose at random, so what it has seldom tried counts little.",
                "small muted",
            )

    async def _draw_parallel(self) -> None:
        metrics = parallel_metrics(self._candidates)
        self._parallel.body.clear()
        with self._parallel.body:
            chart = parallel_chart(self._candidates, metrics)
            labelled_chart(chart, "chart", f"Candidates over {len(metrics)} metrics; the better end is up")
            text("The better end is up. Drag along an axis to keep the lines within a range.", "small muted")

    async def _draw_timeline(self) -> None:
        logged = await call_service(self._read_events)
        bars = timeline_bars(logged, datetime.now(UTC))
        self._timeline.body.clear()
        with self._timeline.body:
            _draw_bars(bars)

    def _read_events(self) -> list[EventSchema]:
        logged: list[EventSchema] = []
        for kind in KINDS:
            after = 0
            while page := self._client.events(self._search_id, after, _PAGE, kind).items:
                logged += page
                after = page[-1].seq
        return logged


def _draw_bars(bars: list[TimelineBar]) -> None:
    if not bars:
        text("No worker has begun yet.", "muted")
        return
    start = min(bar.begins_at for bar in bars)
    total_s = max((bar.ends_at - start).total_seconds() for bar in bars) or 1.0
    with div("gantt").props('role="list"'):
        for row, members in rows_of(bars):
            text(row, "small")
            with div("lane"):
                for bar in members:
                    left = 100 * (bar.begins_at - start).total_seconds() / total_s
                    style = f"left: {left:.3f}%; width: {max(0.2, 100 * bar.seconds / total_s):.3f}%"
                    kind = "" if bar.complete else " cut"
                    label = f"{row}: {formatting.duration(bar.seconds)} from {formatting.moment(bar.begins_at)}"
                    with div(f"span{kind}").style(style).props(f'role="listitem" aria-label="{label}"'):
                        ui.tooltip(label)
            text(formatting.duration(sum(bar.seconds for bar in members)), "small muted num")
    text("Hatched: interrupted or still running; the next attempt continues there.", "small muted")
