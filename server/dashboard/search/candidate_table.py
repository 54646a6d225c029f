"""The table of a search's candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from nas.core.device import Status
from nas.core.events import Origin
from nas.core.measures import MetricKind
from nas.core.metrics import METRICS, SHARES
from nas.core.spoken_names import spoken_name
from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema
from nas.schemas.marks import MarkBody, MarkSchema
from server.dashboard.elements import div, heading, text
from server.dashboard.marks import mark_of
from server.dashboard.search.candidate_export import ExportFormat, export_text
from server.dashboard.search.view_model import candidate_url

_COST_COLUMNS = (
    "predicted_ms",
    "upper_ms",
    "measured_ms",
    "predicted_share",
    "upper_share",
    "measured_share",
    "params",
    "macs",
    "peak_bytes",
    "model_bytes",
    "predicted_mj",
    "upper_mj",
)


def _metric_columns() -> tuple[str, ...]:
    """In this order; a metric that no candidate of the search has gets no column."""
    tasks = installed_tasks().values()
    further = (m.metric("test").name for task in tasks for m in task.further)
    qualities = (name for task in tasks for name in (task.estimated, task.trained, task.tested))
    return ("proxy_score", *qualities, *further, *_COST_COLUMNS)


_STATUS_GLYPHS: Mapping[Status, str] = {"verified": "✓", "unverified": "□", "violated": "▲", "fallback": "◪"}
_ORIGINS: dict[Origin, str] = {"search": "Search", "baseline": "Random baseline", "reference": "References"}
_MOST_SHOWN = 6  # metrics at first, so that the table fits a laptop's width
_HIDDEN_AT_FIRST = ("upper_ms", "upper_share", "upper_mj", "val_loss", "val_images", "macs", "peak_bytes")

TableRow = dict[str, Any]  # a row of a Quasar table, by the names of its columns


@dataclass(frozen=True)
class TableView:
    """Which rows a table shows: its ``page``, from 1, of so many ``rows``, ordered by a ``column``, None: as they
    come."""

    page: int = 1
    rows: int = 15
    column: str | None = None
    descending: bool = False

    def pagination(self, count: int) -> dict[str, object]:
        """The view for a Quasar table of ``count`` rows in all."""
        return {
            "page": self.page,
            "rowsPerPage": self.rows,
            "sortBy": self.column,
            "descending": self.descending,
            "rowsNumber": count,
        }


class CandidateTableCard:
    """The candidates of the search, of its random baseline and the references, each in a table of its own, with
    filters and a choice of columns; no column mixes kinds of evidence. The browser gets the page that it shows, since
    thousands of rows would take it longer than a reader waits."""

    def __init__(self, search_id: str) -> None:
        self._search_id = search_id
        self._rows: list[TableRow] = []
        self._matching: list[TableRow] = []
        self._view = TableView()
        self._candidates: tuple[CandidateSchema, ...] = ()
        self._marks: tuple[MarkSchema, ...] = ()
        self._metrics: list[str] = []
        self._kinds: dict[str, MetricKind] = {}
        self._hidden: set[str] = set()
        self._box = div("part card")
        self._box.set_visibility(False)
        with self._box:
            self._draw_filters()
            rows_per_page = ":rows-per-page-options='[15, 50, 100, 500]'"
            self._table = (
                ui.table(rows=[], columns=[], row_key="key", pagination=self._view.pagination(0))
                .classes("nets w-full")
                .props(f"flat dense {rows_per_page} no-data-label='No candidate matches the filters'")
            )
            self._table.add_slot("header-cell", _HEADER_CELL)
            self._table.add_slot("body-cell-arch", _ARCH_CELL)
            self._table.add_slot("body-cell-status", _STATUS_CELL)
            self._table.on("row-click", self._open, [[], ["url"], None])
            self._table.on("request", self._turn, ["pagination"])

    def _draw_filters(self) -> None:
        statuses: dict[str, str] = {"": "Any status", **{s: s for s in _STATUS_GLYPHS}}
        with div("card-head"):
            heading("Candidates", 2)
            self._count = text("", "small muted", "span")
            div("grow")
            self._draw_export()
        with div("card-head"):
            self._origin = ui.toggle(dict(_ORIGINS), value="search").props(
                "no-caps unelevated dense padding='2px 10px' aria-label='origin'"
            )
            div("grow")
            self._status = ui.select(statuses, value="").props("outlined dense aria-label='status'")
            self._front = ui.checkbox("Front only").props("dense")
            self._starred = ui.checkbox("Starred only").props("dense")
            self._find = ui.input(placeholder="Find by name or id").props("outlined dense clearable aria-label='find'")
        for control in (self._origin, self._status, self._front, self._starred, self._find):
            control.on_value_change(lambda: self._filter(page=1))

    def _draw_export(self) -> None:
        with ui.button("Columns", icon="view_column").props("flat dense no-caps size=sm"), ui.menu():
            self._column_menu = div("who stack tight")
        ui.button("CSV", icon="download", on_click=lambda: self._export("csv")).props("flat dense no-caps size=sm")
        ui.button("JSON", icon="download", on_click=lambda: self._export("json")).props("flat dense no-caps size=sm")

    def show(self, candidates: tuple[CandidateSchema, ...], total: int, marks: tuple[MarkSchema, ...] = ()) -> None:
        """List the best candidates of ``total``, front members first."""
        if (candidates, marks) == (self._candidates, self._marks):
            return
        self._candidates, self._marks = candidates, marks
        self._box.set_visibility(bool(candidates))
        self._set_metrics()
        ordered = sorted(candidates, key=lambda c: not c.on_front)
        self._rows = [_row(c, self._search_id, mark_of(marks, c.arch)) for c in ordered]
        count = f"the best {len(candidates)} of {total}" if total > len(candidates) else f"{total}"
        self._count.text = f"{count} evaluated"
        counts = Counter(c.origin for c in candidates)
        self._origin.set_options({o: f"{label} ({counts[o]})" for o, label in _ORIGINS.items() if counts[o]})
        self._filter()

    def _set_metrics(self) -> None:
        self._kinds = {name: m.kind for c in self._candidates for name, m in c.metrics.items()}
        metrics = [name for name in _metric_columns() if name in self._kinds]
        if "predicted_share" in metrics:  # milliseconds of several devices cannot be compared
            metrics = [name for name in metrics if name not in SHARES]
        if metrics == self._metrics:
            return
        if new := [name for name in metrics if name not in self._metrics]:
            shown = [name for name in metrics if name not in _HIDDEN_AT_FIRST][:_MOST_SHOWN]
            self._hidden |= {name for name in new if name not in shown}
        self._metrics = metrics
        self._column_menu.clear()
        with self._column_menu:
            for name in metrics:
                box = ui.checkbox(METRICS[name].label, value=name not in self._hidden).props("dense")
                box.on_value_change(lambda e, name=name: self._toggle(name, e.value))
        self._set_columns()

    def _toggle(self, metric: str, shown: bool) -> None:
        self._hidden = self._hidden - {metric} if shown else self._hidden | {metric}
        self._set_columns()

    def _set_columns(self) -> None:
        self._table.columns = _columns([name for name in self._metrics if name not in self._hidden], self._kinds)

    def _selected(self) -> list[TableRow]:
        query = (self._find.value or "").strip().lower()
        return [
            row
            for row in self._rows
            if row["origin"] == self._origin.value
            and (not self._status.value or row["status"] == self._status.value)
            and (not self._front.value or row["front"])
            and (not self._starred.value or row["starred"])
            and (query in row["arch"] or query in row["name"].lower())
        ]

    def _filter(self, page: int | None = None) -> None:
        """Show what the filters leave: a page, or as much of the present one as there is."""
        self._matching = self._selected()
        last = max(1, -(-len(self._matching) // self._view.rows))
        self._view = replace(self._view, page=min(page or self._view.page, last))
        self._show_page()

    def _turn(self, event: GenericEventArguments) -> None:
        """Another page or order, as the browser asks for."""
        asked = event.args["pagination"]
        self._view = TableView(asked["page"], asked["rowsPerPage"], asked["sortBy"], asked["descending"])
        self._show_page()

    def _show_page(self) -> None:
        view = self._view
        rows = in_order(self._matching, view.column, descending=view.descending)
        start = (view.page - 1) * view.rows
        self._table.pagination = view.pagination(len(rows))
        self._table.rows = rows[start : start + view.rows]

    def _export(self, kind: ExportFormat) -> None:
        keys = {row["key"] for row in self._selected()}
        candidates = [c for c in self._candidates if _key(c) in keys]
        name = f"{self._search_id}-{self._origin.value}.{kind}"
        ui.download.content(export_text(candidates, self._marks, kind), name)

    def _open(self, event: GenericEventArguments) -> None:
        ui.navigate.to(event.args[1]["url"])


def in_order(rows: list[TableRow], column: str | None, *, descending: bool) -> list[TableRow]:
    """Rows by the values of a column, those without one last; as they are for None."""
    if column is None:
        return rows
    present = sorted((row for row in rows if row.get(column) is not None), key=lambda row: row[column])
    return [*(present[::-1] if descending else present), *(row for row in rows if row.get(column) is None)]


_HEADER_CELL = """<q-th :props="props">{{ props.col.label }}<template v-if="props.col.kind"><br>
<span v-if="props.col.unit" class="muted small">{{ props.col.unit }}&nbsp;</span>
<span :class="'kind ' + props.col.kind">{{ props.col.kind }}</span></template></q-th>"""
_ARCH_CELL = """<q-td :props="props"><a :href="props.row.url" @click.stop>{{ props.row.name }}</a>
<span v-if="props.row.front" class="on-front" title="on the front"> ●</span>
<span v-if="props.row.starred" class="star" title="starred"> ★</span>
<span v-if="props.row.note" :title="props.row.note"> ✎</span>
<span v-if="props.row.extrapolated" title="outside the domain of the latency predictor"> ◇</span>
<div class="mono small muted">{{ props.row.label }}</div></q-td>"""
_STATUS_CELL = """<q-td :props="props">
<span v-if="props.row.measured" :class="'badge ' + props.value" :title="props.value">{{ props.row.glyph }}
<span class="words">{{ props.value }}</span></span>
<span v-else class="muted">not measured</span></q-td>"""
_FORMATS = {  # JavaScript, by unit
    "%": "v => v == null ? '–' : v.toFixed(2)",
    "ms": "v => v == null ? '–' : v.toPrecision(3)",
    "mJ": "v => v == null ? '–' : v.toPrecision(3)",
    "B": "v => v == null ? '–' : v.toLocaleString('en')",
    "": "v => v == null ? '–' : v >= 1e9 ? (v / 1e9).toPrecision(3) + ' G' : v >= 1e6 ? (v / 1e6).toPrecision(3) + ' M'"
    " : v >= 1e3 ? (v / 1e3).toPrecision(3) + ' k' : +v.toPrecision(4)",
}


def _columns(metrics: list[str], kinds: Mapping[str, MetricKind]) -> list[dict[str, object]]:
    common = {"sortable": True, "align": "left"}
    columns: list[dict[str, object]] = [
        {"name": "arch", "label": "Candidate", "field": "arch", **common},
        {"name": "status", "label": "Status", "field": "status", **common},
    ]
    for name in metrics:
        info = METRICS[name]
        column = {"name": name, "label": info.label, "field": name, "unit": info.unit, "kind": kinds[name]}
        columns.append({**column, "sortable": True, "align": "right", ":format": _FORMATS.get(info.unit, _FORMATS[""])})
    return columns


def _key(candidate: CandidateSchema) -> str:
    return f"{candidate.origin}:{candidate.arch}"


def _row(candidate: CandidateSchema, search_id: str, mark: MarkBody) -> TableRow:
    return {
        "key": _key(candidate),
        "arch": candidate.arch,
        "name": candidate.name or spoken_name(candidate.arch),
        "label": candidate.arch,
        "url": candidate_url(search_id, candidate.arch, candidate.origin),
        "origin": candidate.origin,
        "status": candidate.status,
        "glyph": _STATUS_GLYPHS[candidate.status],
        "measured": candidate.measurement is not None,
        "front": candidate.on_front,
        "starred": mark.starred,
        "note": mark.note,
        "extrapolated": candidate.extrapolated is True,
        **{name: metric.value for name, metric in candidate.metrics.items()},
    }
