"""``/searches/{id}``: one search while it runs and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nicegui import ui

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.views import ArtifactView, DeviceView, ExtendBody, PointView, SearchView
from server.dashboard import words
from server.dashboard.frame import (
    Frame,
    Live,
    Part,
    ask,
    badge,
    copy_button,
    crumbs,
    div,
    figure,
    framed,
    heading,
    notice,
    text,
)
from server.dashboard.front_cards import CurveCard, FrontCard
from server.dashboard.network_table import NetworkTable
from server.dashboard.shown import Shown, subnet_url
from server.dashboard.spec_text import spec_text
from server.dashboard.stages import draw_stages

_MOST_POINTS = 2000  # drawn and listed; the best by validation accuracy
_PAGE = 1000


async def search_page(client: Client, search_id: str) -> None:
    """Status, stages, fronts, networks and files of a search."""
    last: list[Shown] = []

    def fetch() -> Shown:
        search = client.search(search_id)
        if last and last[0].search.last_event == search.last_event:
            return Shown(search, last[0].front, last[0].points, last[0].total, last[0].artifacts)
        points, total = _points(client, search_id) if search.evaluations else ((), 0)
        artifacts = tuple(client.artifacts(search_id))
        last[:] = [Shown(search, client.front(search_id), points, total, artifacts)]
        return last[0]

    with framed(client, "Search", "") as frame:
        head = Part(lambda s: _draw_head(client, frame, s))
        error = Part(_draw_error)
        stages = Part(draw_stages)
        figures = Part(_draw_figures)
        warnings = Part(_draw_warnings)
        with div("cols same") as drawings:
            fronts = FrontCard(search_id)
            curve = CurveCard()
        nets = NetworkTable(search_id)
        files = Part(_draw_files)
        spec = Part(_draw_spec)
        drawings.set_visibility(False)

        def draw(shown: Shown) -> None:
            s = shown.search
            ui.page_title(f"{s.spec.name} · hwnas")
            head.show(s.model_copy(update={"stages": [], "eta_s": None, "last_event": 0, "hypervolume_history": []}))
            error.show(s.error, s.status)
            stages.show(tuple(s.stages), s.eta_s, s.status)
            figures.show(_Figures.of(shown))
            fronts.show(shown)
            nets.show(shown)
            drawings.set_visibility(bool(shown.points))
            curve.show(s)
            warnings.show(tuple(s.warnings))
            files.show(shown.artifacts, search_id)
            spec.show(s.spec)

        await Live(frame, fetch, draw, lambda shown: not words.is_over(shown.search)).start()


def _points(client: Client, search_id: str) -> tuple[tuple[PointView, ...], int]:
    points: list[PointView] = []
    cursor = None
    while True:
        page = client.candidates(search_id, limit=_PAGE, cursor=cursor)
        points += page.items
        cursor = page.next
        if cursor is None or len(points) >= _MOST_POINTS:
            return tuple(points), page.total


# Head: title, actions


def _draw_head(client: Client, frame: Frame, search: SearchView) -> None:
    crumbs(("Searches", "/"), (search.spec.name, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(search.spec.name)
        badge(search.status)
        div("grow")
        if search.status in ("queued", "running"):
            ui.button("Cancel", icon="stop", on_click=lambda: _confirm_cancel(client, frame, search)).props(
                "outline no-caps color=negative"
            )
        if search.status == "succeeded":
            ui.button("Extend", icon="playlist_add", on_click=lambda: _extend_dialog(client, search)).props(
                "outline no-caps"
            )
            ui.button(
                "Reuse supernet", icon="content_copy", on_click=lambda: ui.navigate.to(f"/submit?supernet={search.id}")
            ).props("outline no-caps")
    with div("flow small muted").style("margin-top: .4rem"):
        text(search.id, "mono", "span")
        text(f"{search.spec.strategy.name} in {search.spec.space.name} on {search.spec.data.name}", tag="span")
        ui.link(f"device {search.spec.device}", f"/devices/{search.spec.device}")
        text(f"created {words.age(search.created_at, datetime.now(UTC))}", tag="span")
        if search.parent:
            ui.link("extends another search", f"/searches/{search.parent}")
        elif search.spec.supernet:
            ui.link("reuses a trained supernet", f"/searches/{search.spec.supernet}")
        if search.attempts > 1:
            text(f"attempt {search.attempts}", tag="span")


async def _confirm_cancel(client: Client, frame: Frame, search: SearchView) -> None:
    with ui.dialog() as dialog, div("card stack"):
        heading("Cancel this search?", 2)
        text("It stops now. What it has found so far stays, and cannot be continued.", "muted")
        with div("flow"):
            div("grow")
            ui.button("Keep running", on_click=lambda: dialog.submit(False)).props("flat no-caps")
            ui.button("Cancel search", on_click=lambda: dialog.submit(True)).props("unelevated no-caps color=negative")
    if await dialog:
        try:
            await ask(client.cancel, search.id)
            ui.notify("Cancelling")
        except HwnasError as error:
            frame.problem(str(error))
    dialog.delete()


async def _extend_dialog(client: Client, search: SearchView) -> None:
    """A child search on the same supernet."""
    trouble = ""
    devices: list[DeviceView] = []
    try:
        devices = await ask(client.devices)
    except HwnasError as error:
        trouble = str(error)
    names = sorted({search.spec.device, *(d.name for d in devices if d.predictors)})
    with ui.dialog() as dialog, div("card stack"):
        heading("Extend this search", 2)
        text("A new search on the supernet that is trained already: seconds to minutes, no training.", "muted small")
        name = ui.input("Name", value=f"{search.spec.name}, extended").props("outlined dense")
        evaluations = ui.number(
            "Evaluations", value=search.spec.budget.evaluations * 2, min=8, step=8, format="%d"
        ).props("outlined dense hint='estimated subnets, search and baseline each'")
        bound = ui.number("Latency bound (ms)", value=search.spec.bound("latency"), min=0, format="%g").props(
            "outlined dense clearable hint='empty: as before'"
        )
        device = ui.select(names, value=search.spec.device, label="Device").props("outlined dense")
        problem = Part(lambda message: notice("bad", "Not accepted", message) if message else None)
        problem.show(trouble)

        async def send() -> None:
            button.props("loading")
            body = ExtendBody(
                name=name.value or None,
                evaluations=int(evaluations.value) if evaluations.value else None,
                bounds={"latency": float(bound.value)} if bound.value else None,
                device=device.value if device.value != search.spec.device else None,
            )
            try:
                child = await ask(client.extend, search.id, body)
                ui.navigate.to(f"/searches/{child.id}")
            except HwnasError as error:
                problem.show(str(error))
            finally:
                button.props(remove="loading")

        with div("flow"):
            div("grow")
            ui.button("Close", on_click=dialog.close).props("flat no-caps")
            button = ui.button("Extend", on_click=send).props("unelevated no-caps")
    dialog.open()


def _draw_error(error: str | None, status: str) -> None:
    if status == "failed":
        notice("bad", "This search failed", error or "No reason was recorded.")
    elif status == "cancelled":
        notice("warn", "This search was cancelled", "What it had found until then is below.")


# Figures


@dataclass(frozen=True)
class _Figures:
    """The headline values of a search."""

    best: str
    best_kind: Any
    best_name: str
    front: int
    baseline_front: int
    verified: int
    evaluations: int
    volume: float | None
    baseline_volume: float | None
    gain: str
    fastest: str
    fastest_kind: Any

    @staticmethod
    def of(shown: Shown) -> _Figures:
        s, f = shown.search, shown.front
        y = next(o for o in f.objectives if o.objective == "accuracy")
        x = next((o for o in f.objectives if o.objective == "latency"), None)
        top = max((p.metrics[y.metric].value for p in f.points), default=None)
        low = min((p.metrics[x.metric].value for p in f.points), default=None) if x is not None else None
        return _Figures(
            best=words.NONE if top is None else words.quantity(top, y.unit),
            best_kind=y.kind,
            best_name=f"Best {y.label.lower()}",
            front=len(f.points),
            baseline_front=len(f.baseline),
            verified=s.verified,
            evaluations=s.evaluations,
            volume=f.hypervolume,
            baseline_volume=f.baseline_hypervolume,
            gain=words.gain(f.hypervolume, f.baseline_hypervolume),
            fastest="" if low is None or x is None else words.quantity(low, x.unit),
            fastest_kind=None if x is None else x.kind,
        )


def _draw_figures(f: _Figures) -> None:
    if not f.evaluations:
        return
    with div("card"), div("figures"):
        figure(f.best_name, f.best, f.best_kind)
        if f.fastest:
            figure("Fastest on the front", f.fastest, f.fastest_kind)
        figure("Networks on the front", str(f.front), note=f"random search: {f.baseline_front}")
        figure("Verified on the device", str(f.verified))
        figure("Evaluated", words.count(f.evaluations), "estimated")
        if f.volume is not None:
            figure(
                "Hypervolume of the front",
                words.share(f.volume),
                note=f"random search: {words.share(f.baseline_volume)} ({f.gain})" if f.gain else "",
            )


def _draw_warnings(warnings: tuple[str, ...]) -> None:
    if not warnings:
        return
    title = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    notice("warn", f"{title}; the search went on", list(warnings))


# Files and spec


def _draw_files(artifacts: tuple[ArtifactView, ...], search_id: str) -> None:
    if not artifacts:
        return
    archs = list(dict.fromkeys(a.arch for a in artifacts))
    with div("card"), div("fold", "details"):
        text(f"Downloads: {len(artifacts)} files of {len(archs)} networks", tag="summary")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                text("Network", tag="th")
                text("Files", tag="th")
            for arch in archs:
                with div("", "tr"):
                    with div("", "td"):
                        ui.link(arch, subnet_url(search_id, arch, "search")).classes("mono")
                    with div("", "td"), div("flow"):
                        for a in artifacts:
                            if a.arch == arch:
                                download(a)


def download(artifact: ArtifactView) -> None:
    """A link to the file, with its size."""
    ui.link(f"{artifact.name} ({words.size(artifact.size_bytes)})", artifact.url).props("download")


def _draw_spec(spec: Any) -> None:
    with div("card"), div("fold", "details"):
        text("Specification", tag="summary")
        with div("flow"):
            how = ui.toggle(["YAML", "JSON"], value="YAML").props("no-caps unelevated dense padding='2px 10px'")
            copy_button(lambda: spec_text(spec, how.value))
        shown = text(spec_text(spec), "code mono", "pre")
        how.on_value_change(lambda e: setattr(shown, "text", spec_text(spec, e.value)))
