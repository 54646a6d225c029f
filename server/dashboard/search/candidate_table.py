"""The table of a search's candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from nas.core.measures import MetricKind
from nas.core.metrics import METRICS, SHARES
from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema
from server.dashboard.elements import div, heading, text
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


_STATUS_LABELS = {"verified": "✓ verified", "unverified": "□ unverified", "violated": "▲ violated"}

TableRow = dict[str, Any]  # a row of a Quasar table, by the names of its columns


class CandidateTableCard:
    """Candidates of search and random baseline, with filters; no column mixes kinds of evidence."""

    def __init__(self, search_id: str) -> None:
        self._search_id = search_id
        self._rows: list[TableRow] = []
        self._candidates: tuple[CandidateSchema, ...] = ()
        self._metrics: list[str] = []
        self._box = div("part card")
        self._box.set_visibility(False)
        with self._box:
            self._draw_filters()
            rows_per_page = ":rows-per-page-options='[15, 50, 100, 0]'"
            self._table = (
                ui.table(rows=[], columns=[], row_key="key", pagination=15)
                .classes("nets w-full")
                .props(f"flat dense {rows_per_page} no-data-label='No candidate matches the filters'")
            )
            self._table.add_slot("header-cell", _HEADER_CELL)
            self._table.add_slot("body-cell-arch", _ARCH_CELL)
            self._table.add_slot("body-cell-status", _STATUS_CELL)
            self._table.on("row-click", self._open, [[], ["url"], None])

    def _draw_filters(self) -> None:
        origins = {"": "Any origin", "search": "Search", "baseline": "Random baseline", "reference": "References"}
        statuses = {"": "Any status", **{s: s for s in _STATUS_LABELS}}
        with div("card-head"):
            heading("Candidates", 2)
            self._count = text("", "small muted", "span")
            div("grow")
            self._origin = ui.select(origins, value="").props("outlined dense aria-label='origin'")
            self._status = ui.select(statuses, value="").props("outlined dense aria-label='status'")
            self._front = ui.checkbox("Front only").props("dense")
            self._arch = ui.input(placeholder="Find by id").props("outlined dense clearable aria-label='find'")
        for control in (self._origin, self._status, self._front, self._arch):
            control.on_value_change(self._filter)

    def show(self, candidates: tuple[CandidateSchema, ...], total: int) -> None:
        """List the best candidates of ``total``, front members first."""
        if candidates == self._candidates:
            return
        self._candidates = candidates
        self._box.set_visibility(bool(candidates))
        self._set_columns()
        ordered = sorted(candidates, key=lambda c: (not c.on_front, c.origin != "search" and c.on_front))
        self._rows = [_row(c, self._search_id) for c in ordered]
        count = f"the best {len(candidates)} of {total}" if total > len(candidates) else f"{total}"
        self._count.text = f"{count} evaluated"
        self._filter()

    def _set_columns(self) -> None:
        kinds = {name: m.kind for c in self._candidates for name, m in c.metrics.items()}
        metrics = [name for name in _metric_columns() if name in kinds]
        if "predicted_share" in metrics:  # milliseconds of several devices cannot be compared
            metrics = [name for name in metrics if name not in SHARES]
        if metrics != self._metrics:
            self._metrics = metrics
            self._table.columns = _columns(metrics, kinds)

    def _filter(self) -> None:
        arch = (self._arch.value or "").strip().lower()
        self._table.rows = [
            row
            for row in self._rows
            if (not self._origin.value or row["origin"] == self._origin.value)
            and (not self._status.value or row["status"] == self._status.value)
            and (not self._front.value or row["front"])
            and arch in row["arch"]
        ]

    def _open(self, event: GenericEventArguments) -> None:
        ui.navigate.to(event.args[1]["url"])


_HEADER_CELL = """<q-th :props="props">{{ props.col.label }}<template v-if="props.col.kind"><br>
<span v-if="props.col.unit" class="muted small">{{ props.col.unit }}&nbsp;</span>
<span :class="'kind ' + props.col.kind">{{ props.col.kind }}</span></template></q-th>"""
_ARCH_CELL = """<q-td :props="props"><a class="mono" :href="props.row.url" @click.stop>{{ props.value }}</a>
<span v-if="props.row.front" title="on the front"> ★</span>
<span v-if="props.row.extrapolated" title="outside the domain of the latency predictor"> ◇</span></q-td>"""
_STATUS_CELL = """<q-td :props="props">
<span v-if="props.row.measured" :class="'badge ' + props.value">{{ props.row.label }}</span>
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
        {"name": "origin", "label": "Origin", "field": "source", **common},
        {"name": "status", "label": "Status", "field": "status", **common},
    ]
    for name in metrics:
        info = METRICS[name]
        column = {"name": name, "label": info.label, "field": name, "unit": info.unit, "kind": kinds[name]}
        columns.append({**column, "sortable": True, "align": "right", ":format": _FORMATS.get(info.unit, _FORMATS[""])})
    return columns


def _row(candidate: CandidateSchema, search_id: str) -> TableRow:
    return {
        "key": f"{candidate.origin}:{candidate.arch}",
        "arch": candidate.arch,
        "url": candidate_url(search_id, candidate.arch, candidate.origin),
        "origin": candidate.origin,
        "source": candidate.name or candidate.origin,
        "status": candidate.status,
        "label": _STATUS_LABELS[candidate.status],
        "measured": candidate.measurement is not None,
        "front": candidate.on_front,
        "extrapolated": candidate.extrapolated is True,
        **{name: metric.value for name, metric in candidate.metrics.items()},
    }
