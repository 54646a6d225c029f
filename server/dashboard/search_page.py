"""``/searches/{id}``: one search while it runs and after."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nicegui import ui
from nicegui.events import EChartPointClickEventArguments, GenericEventArguments

from nas.client import Client
from nas.core.errors import HwnasError
from nas.core.metrics import METRICS
from nas.core.views import ArtifactView, ExtendBody, FrontView, PointView, SearchView
from server.dashboard import charts, words
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
    kind_chip,
    notice,
    text,
)
from server.dashboard.spec_text import spec_text
from server.dashboard.stages import draw_stages

_MOST_POINTS = 2000  # drawn and listed; the best by validation accuracy
_PAGE = 1000
# In this order; a metric that no network of the search has gets no column.
_COLUMNS = ("val_accuracy", "test_accuracy", "predicted_ms", "upper_ms", "measured_ms", "params", "macs")


@dataclass(frozen=True)
class Shown:
    """What the page shows, as the API gave it."""

    search: SearchView
    front: FrontView
    points: tuple[PointView, ...]
    total: int
    artifacts: tuple[ArtifactView, ...]


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
    try:
        devices = await ask(client.devices)
    except HwnasError:
        devices = []
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
        problem = Part(lambda message: notice("bad", "Not accepted", message))

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


# Charts


class FrontCard:
    """The Pareto chart. It is made anew only when what its axes mean changes; otherwise its data are replaced."""

    def __init__(self, search_id: str) -> None:
        self._search_id = search_id
        self._shown: Shown | None = None
        self._focus = False
        self._evidence: charts.Evidence = "measured"
        self._x = ""
        self._box = div("part card")
        self._made: tuple[Any, ...] | None = None
        self._chart: ui.echart | None = None
        self._box.set_visibility(False)

    def show(self, shown: Shown) -> None:
        """Draws the fronts and points."""
        if self._shown == shown:
            return
        self._shown = shown
        if not shown.points:
            return
        self._box.set_visibility(True)
        self._draw()

    def _draw(self) -> None:
        shown = self._shown
        assert shown is not None
        options = charts.pareto(shown.front, shown.points, self._x, self._evidence, self._focus)
        shape = (shown.front.final, self._evidence, self._x, tuple(o.objective for o in shown.front.objectives))
        if self._made == shape and self._chart is not None:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()
            return
        self._made = shape
        self._box.clear()
        with self._box:
            self._draw_head(shown.front)
            label = "Accuracy over cost of every network found by the search and by random search"
            self._chart = (
                ui.echart(options, on_point_click=self._open, renderer="svg")
                .classes("chart pareto")
                .props(f'role="img" aria-label="{label}"')
            )
            text(_caption(shown.front, self._evidence), "small muted")

    def _draw_head(self, front: FrontView) -> None:
        with div("card-head"):
            heading("Pareto front", 2)
            if not front.final:
                kind_chip("predicted")
                text("nothing here has been measured yet", "small muted", "span")
            div("grow")
            others = {o.objective: o.objective for o in front.objectives if o.objective != "accuracy"}
            if len(others) > 1:
                ui.toggle(others, value=self._x or next(iter(others)), on_change=lambda e: self._set(x=e.value)).props(
                    "no-caps unelevated dense padding='2px 10px'"
                )
            if front.final:
                ui.toggle(
                    {"measured": "Measured", "predicted": "As predicted"},
                    value=self._evidence,
                    on_change=lambda e: self._set(evidence=e.value),
                ).props("no-caps unelevated dense padding='2px 10px'")
            ui.switch("Zoom to fronts", value=self._focus, on_change=lambda e: self._set(focus=e.value)).props("dense")

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, f"_{name}", value)
        self._draw()

    def _open(self, event: EChartPointClickEventArguments) -> None:
        if isinstance(event.data, dict) and "arch" in event.data:
            ui.navigate.to(subnet_url(self._search_id, event.data["arch"], event.data["origin"]))


def _caption(front: FrontView, evidence: str) -> str:
    if front.final and evidence == "measured":
        out = (
            "Solid: measured on the device and on test data, front members larger. Hollow: as the search had predicted."
        )
    elif front.final:
        out = "Every evaluated network where the search believed it to be; larger marks are on the final front."
    else:
        out = "Latency is predicted and accuracy estimated with shared weights; front members will be measured."
    extra = len(front.objectives) - 2
    if extra > 0:
        out += f" The front has {extra + 2} objectives: this is a projection on two of them."
    return f"{out} Click a point for its network."


def subnet_url(search_id: str, arch: str, origin: str) -> str:
    """The page of a network."""
    return f"/searches/{search_id}/subnets/{arch}" + ("" if origin == "search" else f"?origin={origin}")


class CurveCard:
    """Hypervolume of search and random baseline at equal evaluations."""

    def __init__(self) -> None:
        self._box = div("part card")
        self._chart: ui.echart | None = None
        self._shown: tuple[Any, ...] = ()
        self._box.set_visibility(False)

    def show(self, search: SearchView) -> None:
        """Draws the history."""
        history = tuple(search.hypervolume_history)
        if history == self._shown:
            return
        self._shown = history
        self._box.set_visibility(bool(history))
        options = charts.hypervolume(history)
        if self._chart is not None:
            self._chart.options.clear()
            self._chart.options.update(options)
            self._chart.update()
            return
        with self._box:
            with div("card-head"):
                heading("Against random search", 2)
                kind_chip("estimated")
            self._chart = ui.echart(options, renderer="svg").classes("chart curve")
            text("Share of the ideal area that is dominated, after equally many evaluated networks.", "small muted")


def _draw_warnings(warnings: tuple[str, ...]) -> None:
    if not warnings:
        return
    title = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    notice("warn", f"{title}; the search went on", list(warnings))


# Table of networks


class NetworkTable:
    """Every evaluated network; columns never mix kinds of evidence."""

    def __init__(self, search_id: str) -> None:
        self._search_id = search_id
        self._rows: list[dict[str, Any]] = []
        self._points: tuple[PointView, ...] = ()
        self._box = div("part card")
        self._box.set_visibility(False)
        self._columns: list[str] = []
        with self._box:
            with div("card-head"):
                heading("Networks", 2)
                self._count = text("", "small muted", "span")
                div("grow")
                self._origin = ui.select(
                    {"": "Any origin", "search": "Search", "baseline": "Random baseline"}, value=""
                ).props("outlined dense aria-label='origin'")
                self._status = ui.select(
                    {"": "Any status", **{s: s for s in ("verified", "unverified", "violated")}}, value=""
                ).props("outlined dense aria-label='status'")
                self._front = ui.checkbox("Front only").props("dense")
                self._text = ui.input(placeholder="Find by id").props("outlined dense clearable aria-label='find'")
            for control in (self._origin, self._status, self._front, self._text):
                control.on_value_change(self._filter)
            self._table = (
                ui.table(
                    rows=[],
                    columns=[],
                    row_key="key",
                    pagination=15,
                )
                .classes("nets w-full")
                .props(
                    "flat dense :rows-per-page-options='[15, 50, 100, 0]' no-data-label='No network fits the filter'"
                )
            )
            self._table.add_slot("header-cell", _HEADER_CELL)
            self._table.add_slot("body-cell-arch", _ARCH_CELL)
            self._table.add_slot("body-cell-status", _STATUS_CELL)
            self._table.on("row-click", self._open, [[], ["arch", "origin"], None])

    def show(self, shown: Shown) -> None:
        """Lists the networks."""
        if shown.points == self._points:
            return
        self._points = shown.points
        self._box.set_visibility(bool(shown.points))
        names = [n for n in _COLUMNS if any(n in p.metrics for p in shown.points)]
        if names != self._columns:
            self._columns = names
            self._table.columns = _columns(names)
        first = sorted(shown.points, key=lambda p: (not p.on_front, p.origin != "search" and p.on_front))
        self._rows = [_row(p, self._search_id) for p in first]
        part = f"the best {len(shown.points)} of {shown.total}" if shown.total > len(shown.points) else f"{shown.total}"
        self._count.text = f"{part} evaluated"
        self._filter()

    def _filter(self) -> None:
        wanted = (self._text.value or "").strip().lower()
        self._table.rows = [
            r
            for r in self._rows
            if (not self._origin.value or r["origin"] == self._origin.value)
            and (not self._status.value or r["status"] == self._status.value)
            and (not self._front.value or r["front"])
            and wanted in r["arch"]
        ]

    def _open(self, event: GenericEventArguments) -> None:
        row = event.args[1]
        ui.navigate.to(subnet_url(self._search_id, row["arch"], row["origin"]))


_HEADER_CELL = """<q-th :props="props">{{ props.col.label }}<template v-if="props.col.kind"><br>
<span v-if="props.col.unit" class="muted small">{{ props.col.unit }}&nbsp;</span>
<span :class="'kind ' + props.col.kind">{{ props.col.kind }}</span></template></q-th>"""
_ARCH_CELL = """<q-td :props="props"><a class="mono" :href="props.row.url" @click.stop>{{ props.value }}</a>
<span v-if="props.row.front" title="on the front"> ★</span></q-td>"""
_STATUS_CELL = """<q-td :props="props">
<span v-if="props.row.measured" :class="'badge ' + props.value">{{ props.row.mark }}</span>
<span v-else class="muted">not measured</span></q-td>"""
_FORMATS = {
    "%": "v => v == null ? '–' : v.toFixed(2)",
    "ms": "v => v == null ? '–' : v.toPrecision(3)",
    "": "v => v == null ? '–' : v >= 1e9 ? (v / 1e9).toPrecision(3) + ' G' : v >= 1e6 ? (v / 1e6).toPrecision(3) + ' M'"
    " : v >= 1e3 ? (v / 1e3).toPrecision(3) + ' k' : v",
}


def _columns(names: list[str]) -> list[dict[str, Any]]:
    common = {"sortable": True, "align": "left"}
    out: list[dict[str, Any]] = [
        {"name": "arch", "label": "Network", "field": "arch", **common},
        {"name": "origin", "label": "Origin", "field": "origin", **common},
        {"name": "status", "label": "Status", "field": "status", **common},
    ]
    for name in names:
        info = METRICS[name]
        column = {"name": name, "label": info.label, "field": name, "unit": info.unit, "kind": info.kind}
        out.append({**column, "sortable": True, "align": "right", ":format": _FORMATS[info.unit]})
    return out


def _row(point: PointView, search_id: str) -> dict[str, Any]:
    marks = {"verified": "✓ verified", "unverified": "□ unverified", "violated": "▲ violated"}
    return {
        "key": f"{point.origin}:{point.arch}",
        "arch": point.arch,
        "url": subnet_url(search_id, point.arch, point.origin),
        "origin": point.origin,
        "status": point.status,
        "mark": marks[point.status],
        "measured": point.measurement is not None,
        "front": point.on_front,
        **{name: view.value for name, view in point.metrics.items()},
    }


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
    ui.link(f"{artifact.name} ({words.size(artifact.size_bytes)})", artifact.url).props(
        f'download="{artifact.arch}-{artifact.name}"'
    )


def _draw_spec(spec: Any) -> None:
    with div("card"), div("fold", "details"):
        text("Specification", tag="summary")
        with div("flow"):
            how = ui.toggle(["YAML", "JSON"], value="YAML").props("no-caps unelevated dense padding='2px 10px'")
            copy_button(lambda: spec_text(spec, how.value))
        shown = text(spec_text(spec), "code mono", "pre")
        how.on_value_change(lambda e: setattr(shown, "text", spec_text(spec, e.value)))
