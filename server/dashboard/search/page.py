"""``/searches/{id}``: one search while it runs and after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nicegui import ui

from nas.client import Client
from nas.core.errors import NotFound
from nas.core.events import Refitted, StatusChanged, Traced
from nas.schemas.candidates import ArtifactSchema, CandidateSchema, CellSchema
from nas.schemas.jobs import EventSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.elements import copy_button, div, notice, stat, text
from server.dashboard.job_stages import draw_stages
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller
from server.dashboard.search.candidate_table import NetworkTable
from server.dashboard.search.front_cards import CurveCard, FrontCard
from server.dashboard.search.header import Head
from server.dashboard.search.history_card import draw_family, draw_timeline
from server.dashboard.search.rank_correlation_card import TrustCard
from server.dashboard.search.refit_card import draw_learned
from server.dashboard.search.status_text import Explanation, explain
from server.dashboard.search.trace_card import TraceCard
from server.dashboard.search.view_model import Relative, Shown, subnet_url
from server.dashboard.spec_text import spec_text

_MOST_POINTS = 2000  # drawn and listed; the best by validation accuracy
_PAGE = 1000
_CHILDREN = 50


async def search_page(client: Client, search_id: str) -> None:
    """Status, what can be done, stages, fronts, networks, files, history and relatives of a search."""
    look = Look(client, search_id)

    async def choose(device: str | None) -> None:
        look.device = device
        await live.refresh()

    with page_layout(client, "Search", "") as shell:
        head = Head(client, shell, lambda: live.refresh())
        state = MemoizedView(_draw_explanation)
        stages = MemoizedView(draw_stages)
        figures = MemoizedView(_draw_figures)
        warnings = MemoizedView(_draw_warnings)
        with div("cols same") as drawings:
            fronts = FrontCard(search_id, choose)
            curve = CurveCard()
        trust = TrustCard()
        traces = TraceCard()
        nets = NetworkTable(search_id)
        with div("cols"):
            with div("stack"):
                files = MemoizedView(_draw_files)
                spec = MemoizedView(_draw_spec)
                family = MemoizedView(draw_family)
                learned = MemoizedView(draw_learned)
            history = MemoizedView(draw_timeline)
        drawings.set_visibility(False)

        def draw(shown: Shown) -> None:
            s = shown.search
            ui.page_title(f"{s.spec.name} · hwnas")
            head.show(shown)
            state.show(explain(s))
            stages.show(tuple(s.stages), s.eta_s, s.status)
            figures.show(_Figures.of(shown))
            fronts.show(shown)
            trust.show(s.trust)
            derived = next((stage.result for stage in s.stages if stage.name == "derive"), {})
            traces.show(shown.traces, shown.cells, derived)
            nets.show(shown)
            drawings.set_visibility(bool(shown.points))
            curve.show(s, look.device)
            warnings.show(tuple(s.warnings))
            files.show(shown.artifacts, search_id)
            spec.show(s.spec)
            family.show(shown.children)
            learned.show(shown.refits, s.spec.device)
            history.show(shown.changes, s.attempts, s.busy_seconds if formatting.is_over(s) else None)

        live = Poller(shell, look.fetch, draw, lambda shown: formatting.is_moving(shown.search))
        await live.start()


class Look:
    """Fetches what the page shows: a search without news costs three small questions."""

    def __init__(self, client: Client, search_id: str) -> None:
        self._client, self._id = client, search_id
        self._last: Shown | None = None
        self._seen: str | None = None
        self.device: str | None = None  # the device of a fleet whose front is looked at

    def fetch(self) -> Shown:
        """The search as it is now."""
        client, last, device = self._client, self._last, self.device
        search = client.search(self._id)
        children = tuple(_relative(s) for s in client.searches(parent=self._id, limit=_CHILDREN).items)
        if last is not None and last.search.last_event == search.last_event and device == self._seen:
            self._last = replace(last, search=search, children=children)
            return self._last
        front = client.front(self._id, device)
        points, total = _points(client, self._id, front.device) if search.evaluations else ((), 0)
        self._seen = device
        traces = self._events(Traced.kind, last.traces if last is not None else ())
        self._last = Shown(
            search=search,
            front=front,
            points=points,
            total=total,
            artifacts=tuple(client.artifacts(self._id)),
            changes=self._events(StatusChanged.kind, last.changes if last is not None else ()),
            traces=traces,
            refits=self._events(Refitted.kind, last.refits if last is not None else ()),
            cells=last.cells if last is not None and last.traces else self._cells(search.spec.space.name, traces),
            parent=last.parent if last is not None else self._parent(search.parent or search.spec.supernet),
            children=children,
            me=last.me if last is not None else client.me(),
        )
        return self._last

    def _events(self, kind: str, known: tuple[EventSchema, ...]) -> tuple[EventSchema, ...]:
        found = list(known)
        while True:
            page = self._client.events(self._id, found[-1].seq if found else 0, _PAGE, kind)
            found += page.items
            if len(page.items) < _PAGE:
                return tuple(found)

    def _cells(self, space: str, traces: tuple[EventSchema, ...]) -> tuple[CellSchema, ...]:
        if not traces:
            return ()
        return next((tuple(s.cells) for s in self._client.spaces() if s.name == space), ())

    def _parent(self, parent_id: str | None) -> Relative | None:
        if parent_id is None:
            return None
        try:
            return _relative(self._client.search(parent_id))
        except NotFound:  # deleted, or another owner's
            return None


def _relative(search: SearchSchema) -> Relative:
    return Relative(search.id, search.spec.name, search.status)


def _draw_explanation(explanation: Explanation | None) -> None:
    if explanation is not None:
        notice(explanation.tone, explanation.title, explanation.message)


def _points(client: Client, search_id: str, device: str | None) -> tuple[tuple[CandidateSchema, ...], int]:
    points: list[CandidateSchema] = []
    cursor = None
    while True:
        page = client.candidates(search_id, limit=_PAGE, cursor=cursor, device=device)
        points += page.items
        cursor = page.next
        if cursor is None or len(points) >= _MOST_POINTS:
            return tuple(points), page.total


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
    where: str
    evaluations: int
    volume: float | None
    baseline_volume: float | None
    gain: str
    fastest: str
    fastest_name: str
    fastest_kind: Any

    @staticmethod
    def of(shown: Shown) -> _Figures:
        s, f = shown.search, shown.front
        y = next(o for o in f.objectives if o.objective == "accuracy")
        x = next((o for o in f.objectives if o.objective == "latency"), None)
        top = max((p.metrics[y.metric].value for p in f.points), default=None)
        low = min((p.metrics[x.metric].value for p in f.points), default=None) if x is not None else None
        return _Figures(
            best=formatting.NONE if top is None else formatting.quantity(top, y.unit),
            best_kind=y.kind,
            best_name=f"Best {y.label.lower()}",
            front=len(f.points),
            baseline_front=len(f.baseline),
            verified=sum(p.status == "verified" for p in f.points),
            where=f.device or "every device" if s.fleet else "the device",
            evaluations=s.evaluations,
            volume=f.hypervolume,
            baseline_volume=f.baseline_hypervolume,
            gain=formatting.gain(f.hypervolume, f.baseline_hypervolume),
            fastest="" if low is None or x is None else formatting.quantity(low, x.unit),
            fastest_name="Fastest on the front" if x is None or x.unit == "ms" else "Furthest below its bounds",
            fastest_kind=None if x is None else x.kind,
        )


def _draw_figures(f: _Figures) -> None:
    if not f.evaluations:
        return
    with div("card"), div("figures"):
        stat(f.best_name, f.best, f.best_kind)
        if f.fastest:
            stat(f.fastest_name, f.fastest, f.fastest_kind)
        stat("Networks on the front", str(f.front), note=f"random search: {f.baseline_front}")
        stat(f"Verified on {f.where}", str(f.verified))
        stat("Evaluated", formatting.count(f.evaluations), "estimated")
        if f.volume is not None:
            stat(
                "Hypervolume of the front",
                formatting.share(f.volume),
                note=f"random search: {formatting.share(f.baseline_volume)} ({f.gain})" if f.gain else "",
            )


def _draw_warnings(warnings: tuple[str, ...]) -> None:
    if not warnings:
        return
    title = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    notice("warn", f"{title}; the search went on", list(warnings))


# Files and spec


def _draw_files(artifacts: tuple[ArtifactSchema, ...], search_id: str) -> None:
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


def download(artifact: ArtifactSchema) -> None:
    """A link to the file, with its size."""
    ui.link(f"{artifact.name} ({formatting.size(artifact.size_bytes)})", artifact.url).props("download")


def _draw_spec(spec: Any) -> None:
    with div("card"), div("fold", "details"):
        text("Specification", tag="summary")
        with div("flow"):
            how = ui.toggle(["YAML", "JSON"], value="YAML").props("no-caps unelevated dense padding='2px 10px'")
            copy_button(lambda: spec_text(spec, how.value))
        shown = text(spec_text(spec), "code mono", "pre")
        how.on_value_change(lambda e: setattr(shown, "text", spec_text(spec, e.value)))
