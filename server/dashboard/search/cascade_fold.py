"""Cascades of the exported models of a search: making one, what it does beside a single network, and its file."""

from __future__ import annotations

from nicegui import ui

from nas.client import Client
from nas.core.cascade_spec import CascadeBounds
from nas.core.cascades import CascadeReport, MeasuredLatency
from nas.core.errors import HwnasError
from nas.core.spec import parse_spec
from nas.core.spoken_names import spoken_name
from nas.schemas.cascades import CascadeSchema
from server.dashboard import formatting
from server.dashboard.actions import Action, ActionBar, cascade_controls
from server.dashboard.elements import badge, div, notice, text
from server.dashboard.layout import PageShell
from server.dashboard.lazy_fold import LazyFold
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import ACTIVE_S
from server.dashboard.search.view_model import candidate_url
from server.dashboard.service_calls import call_service


class CascadeFold:
    """A folded part of a card, in the slot in which it is made. Cascades that are being made are followed while it is
    open."""

    def __init__(self, client: Client, shell: PageShell, search_id: str) -> None:
        self._client, self._shell, self._search_id = client, shell, search_id
        self._models, self._editable = 0, False
        self._fold = LazyFold("Faster on average: a cascade of two or three models", self._read)
        self._timer: ui.timer | None = None  # one from the start would send the page before it is drawn
        with self._fold.body:
            self._form = MemoizedView(self._draw_form, "stack")
            self._problem = problem_view("The service refused")
            self._list = MemoizedView(self._draw_list, "stack")

    def show(self, models: int, *, editable: bool) -> None:
        """Offer cascades of so many exported models."""
        self._models, self._editable = models, editable
        self._form.show(models, editable)

    async def _read(self) -> None:
        try:
            cascades = await call_service(self._client.cascades, self._search_id)
        except HwnasError as error:
            self._problem.show(str(error))
            return
        self._problem.show(None)
        self._list.show(cascades, self._editable)
        moving = any(formatting.is_moving(cascade) for cascade in cascades)
        if self._timer is None and moving:
            with self._fold.body:
                self._timer = ui.timer(ACTIVE_S, self._read, immediate=False)
        if self._timer is not None:
            self._timer.active = moving and self._fold.is_open

    def _draw_form(self, models: int, editable: bool) -> None:
        text(
            "A fast network answers where it is sure, a more accurate one where it is not. Thresholds are fitted to "
            "validation images; a worker then measures the cascade on every test image beside the single network that "
            "it replaces. The slowest images take longer than with one network.",
            "small muted",
        )
        if models < 2:
            exported = f"exported {models or 'none'} so far"
            notice("info", "A cascade needs two exported models", f"This search has {exported}.")
            return
        if not editable:
            return
        with div("form cascade"):
            within = ui.number("Accuracy it may cost", value=0.0, min=0, max=100, step=0.1, format="%g")
            within.props("outlined dense hint='points below the most accurate model' suffix=points")
            members = ui.select({2: "2", 3: "2 or 3"}, value=3, label="Networks").props("outlined dense")
            mean = ui.number("Mean latency at most", min=0, format="%g").props(
                "outlined dense clearable suffix=ms hint='empty: as fast as possible'"
            )
            p95 = ui.number("95th percentile at most", min=0, format="%g").props(
                "outlined dense clearable suffix=ms hint='empty: no bound'"
            )

        async def make() -> None:
            button.props("loading")
            record = {"within": within.value, "members": members.value, "expected_ms": mean.value, "p95_ms": p95.value}
            try:
                await call_service(self._client.make_cascade, self._search_id, parse_spec(CascadeBounds, record))
                await self._read()
            except HwnasError as error:
                self._problem.show(str(error))
            finally:
                button.props(remove="loading")

        with div("flow"):
            button = ui.button(f"Make a cascade of {models} models", icon="layers", on_click=make)
            button.props("outline no-caps")

    def _draw_list(self, cascades: list[CascadeSchema], editable: bool) -> None:
        for cascade in cascades:
            with div("cascade-entry stack tight"):
                with div("flow"):
                    badge(cascade.status)
                    text(bounds_text(cascade), "small muted", "span")
                    div("grow")
                    if cascade.file is not None:
                        size = formatting.size(cascade.file.size_bytes)
                        ui.link(f"Download ({size})", cascade.file.url).props("download").classes("button")
                    if editable:
                        self._actions().draw({cascade.id: None})
                self._draw_outcome(cascade)

    def _draw_outcome(self, cascade: CascadeSchema) -> None:
        if cascade.error is not None and cascade.status == "failed":
            notice("warn", "No such cascade", formatting.sentence(cascade.error))
        elif cascade.status == "queued":
            text(formatting.sentence(cascade.waiting or "waiting for a worker"), "small muted")
        elif cascade.report is not None:
            text(report_sentence(cascade.report, cascade.worker or "the worker"))
            self._draw_table(cascade.report)
        elif formatting.is_moving(cascade):
            text("It is being made: every model is run on the validation images, then the cascade on the test images.")

    def _draw_table(self, report: CascadeReport) -> None:
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("", "Test accuracy", "Mean", "Median", "95th percentile"):
                    text(title, tag="th")
            self._draw_row(list(zip(report.members, report.shares, strict=True)), report.test_accuracy, report.measured)
            self._draw_row([(report.single, None)], report.single_test_accuracy, report.single_measured)

    def _draw_row(self, networks: list[tuple[str, float | None]], accuracy: float, latency: MeasuredLatency) -> None:
        with div("", "tr"):
            with div("", "td"):
                text("Cascade" if len(networks) > 1 else "Single network", "strong")
                for arch, share in networks:
                    with div("flow small"):
                        ui.link(spoken_name(arch), candidate_url(self._search_id, arch, "search"))
                        if share is not None:
                            text(f"answers {share:.0%}", "muted", "span")
            text(formatting.quantity(accuracy, "%"), tag="td")
            for ms in (latency.mean_ms, latency.median_ms, latency.p95_ms):
                text(formatting.quantity(ms, "ms"), "whole", "td")

    def _actions(self) -> ActionBar:
        controls = cascade_controls(self._search_id)
        return ActionBar(self._client, self._shell, self._after_action, self._problem.show, controls)

    async def _after_action(self, _: Action) -> None:
        await self._read()


def bounds_text(cascade: CascadeSchema) -> str:
    """What was asked of a cascade."""
    spec = cascade.spec
    parts = [f"at most {spec.within:g} points below the best"]
    if spec.expected_ms is not None:
        parts.append(f"mean at most {formatting.quantity(spec.expected_ms, 'ms')}")
    if spec.p95_ms is not None:
        parts.append(f"95th percentile at most {formatting.quantity(spec.p95_ms, 'ms')}")
    return ", ".join(parts)


def report_sentence(report: CascadeReport, worker: str) -> str:
    """How a cascade compares with the single network that it replaces."""
    saved = report.saved_percent
    speed = f"{saved:.0f} % less" if saved >= 0 else f"{-saved:.0f} % more"
    points = report.test_accuracy - report.single_test_accuracy
    accuracy = f"{abs(points):.2f} points {'more' if points >= 0 else 'less'} accurate"
    return (
        f"It takes {speed} time on average than the single network, and is {accuracy}: measured on {worker} with "
        f"{formatting.counted(report.measured.images, 'test image')}, on one thread."
    )
