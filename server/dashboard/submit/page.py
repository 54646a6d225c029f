"""``/submit``: a form for a new search that shows the spec that it sends."""

from __future__ import annotations

import uuid

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError, InvalidSpec
from server.dashboard.elements import copy_button, div, heading, text
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView, problem_view
from server.dashboard.polling import Poller
from server.dashboard.search.fork_dialog import can_fork
from server.dashboard.service_calls import call_service
from server.dashboard.spec_text import spec_text
from server.dashboard.submit.dry_run_card import draw_dry_run
from server.dashboard.submit.fields import SpecFields, SubmitOptions

_FINISHED_SEARCHES = 100  # whose supernets are offered


async def submit_page(client: Client, supernet: str, device: str, model: str = "") -> None:
    """A new search; the page that leads here may fill in ``supernet``, ``device`` and ``model``."""
    form: SubmitForm | None = None

    def fetch() -> SubmitOptions:
        finished = client.searches(status="succeeded", limit=_FINISHED_SEARCHES).items
        return SubmitOptions(
            spaces=client.spaces(),
            strategies=client.strategies(),
            datasets=[*client.datasets(), *(data.name for data in client.data_sets())],
            devices=[d.name for d in client.devices() if d.predictors],
            parents=[search for search in finished if can_fork(search)],
            models={m.name: m.spec.data for m in client.models() if m.summary is not None},
        )

    with page_layout(client, "New search", "/submit") as shell:
        heading("New search")
        form_box = div()

        def draw(options: SubmitOptions) -> None:
            nonlocal form
            if form is None:
                with form_box:
                    form = SubmitForm(client, options, supernet, device, model)

        await Poller(shell, fetch, draw, lambda _: False).start()


class SubmitForm:
    """The form with its buttons, and a preview of the spec. The input is kept, whatever the service answers."""

    def __init__(self, client: Client, options: SubmitOptions, supernet: str, device: str, model: str) -> None:
        self._client = client
        self._key = uuid.uuid4().hex  # with the spec's hash: a double click submits once
        with div("cols"):
            with div("stack"):
                self._fields = SpecFields(options, supernet, device, model)
                self._problem = MemoizedView(lambda view_title, message: problem_view(view_title).show(message))
                with div("flow"):
                    div("grow")
                    self._dry_run_button = ui.button("Dry run", icon="straighten", on_click=self._check)
                    self._dry_run_button.props("outline no-caps")
                    self._time_button = ui.button("Time it on a worker", icon="timer", on_click=self._time)
                    self._time_button.props("outline no-caps")
                    self._submit_button = ui.button("Submit", icon="send", on_click=self._submit)
                    self._submit_button.props("unelevated no-caps")
                self._dry_run_report = MemoizedView(draw_dry_run)
            with div("stack"):
                self._draw_preview()
        self._fields.on_change(self._update_preview)
        self._update_preview()

    def _draw_preview(self) -> None:
        with div("card stack"):
            with div("card-head").style("margin: 0"):
                heading("Specification", 2)
                div("grow")
                self._format = ui.toggle(["YAML", "JSON"], value="YAML", on_change=self._update_preview)
                self._format.props("no-caps unelevated dense padding='2px 10px'")
                copy_button(lambda: self._preview.text)
            self._preview = text("", "code mono spec-preview", "pre")
            text("Save it in a file to submit it from the command line or the Python client.", "small muted")

    def _update_preview(self) -> None:
        """Show the present spec, or what is wrong with it."""
        self._dry_run_report.show(None, False)
        try:
            self._preview.text = spec_text(self._fields.spec(), self._format.value)
        except InvalidSpec as error:
            self._preview.text = f"# not complete yet\n# {error}"

    async def _check(self) -> None:
        await self._dry_run(self._dry_run_button, measure=False)

    async def _time(self) -> None:
        await self._dry_run(self._time_button, measure=True)

    async def _dry_run(self, button: ui.button, *, measure: bool) -> None:
        button.props("loading")
        try:
            spec = self._fields.spec()
            report = await call_service(self._client.dry_run, spec, measure)
            self._problem.show("", "")
            if spec == self._fields.spec():  # the form may have changed meanwhile
                self._dry_run_report.show(report, measure)
        except HwnasError as error:
            self._problem.show("The dry run was refused", str(error))
        finally:
            button.props(remove="loading")

    async def _submit(self) -> None:
        self._submit_button.props("loading")
        try:
            spec = self._fields.spec()
            search = await call_service(self._client.submit, spec, f"{self._key}-{spec.content_hash[:16]}")
            ui.navigate.to(f"/searches/{search.id}")
        except HwnasError as error:
            self._problem.show("The search was not accepted", str(error))
        finally:
            self._submit_button.props(remove="loading")
