"""The table of a search's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from nas.core.metrics import METRICS, SHARES
from nas.schemas.candidates import CandidateSchema
from server.dashboard.elements import div, heading, text
from server.dashboard.search.view_model import Shown, subnet_url

# In this order; a metric that no network of the search has gets no column.
_COLUMNS = (
    "proxy_score",
    "val_accuracy",
    "trained_accuracy",
    "test_accuracy",
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


class NetworkTable:
    """Every evaluated network; columns never mix kinds of evidence."""

    def __init__(self, search_id: str) -> None:
        self._search_id = search_id
        self._rows: list[dict[str, Any]] = []
        self._points: tuple[CandidateSchema, ...] = ()
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
        if "predicted_share" in names:  # milliseconds then say something on one device only
            names = [n for n in names if n not in SHARES]
        kinds = {n: view.kind for p in shown.points for n, view in p.metrics.items()}
        if names != self._columns:
            self._columns = names
            self._table.columns = _columns(names, kinds)
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
    "mJ": "v => v == null ? '–' : v.toPrecision(3)",
    "B": "v => v == null ? '–' : v.toLocaleString('en')",
    "": "v => v == null ? '–' : v >= 1e9 ? (v / 1e9).toPrecision(3) + ' G' : v >= 1e6 ? (v / 1e6).toPrecision(3) + ' M'"
    " : v >= 1e3 ? (v / 1e3).toPrecision(3) + ' k' : +v.toPrecision(4)",
}


def _columns(names: list[str], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    common = {"sortable": True, "align": "left"}
    out: list[dict[str, Any]] = [
        {"name": "arch", "label": "Network", "field": "arch", **common},
        {"name": "origin", "label": "Origin", "field": "origin", **common},
        {"name": "status", "label": "Status", "field": "status", **common},
    ]
    for name in names:
        info = METRICS[name]
        column = {"name": name, "label": info.label, "field": name, "unit": info.unit, "kind": kinds[name]}
        out.append({**column, "sortable": True, "align": "right", ":format": _FORMATS[info.unit]})
    return out


def _row(point: CandidateSchema, search_id: str) -> dict[str, Any]:
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
