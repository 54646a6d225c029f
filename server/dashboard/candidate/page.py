"""``/searches/{id}/candidates/{arch}``: one candidate with its metrics, architecture, measurement and files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from nicegui import ui

from nas.client import Client
from nas.core.device import MeasurementProtocol
from nas.core.errors import InvalidInput, NotFound
from nas.core.metrics import METRICS
from nas.core.spoken_names import spoken_name
from nas.schemas.administration import PrincipalSchema
from nas.schemas.candidates import CandidateDetailSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.marks import MarkSchema
from nas.schemas.searches import SearchSchema
from nas.schemas.waterlines import WaterlineSchema
from server.dashboard.candidate.architecture_card import draw_architecture, draw_cells, draw_choices
from server.dashboard.candidate.architecture_svg import blocks, shape_text
from server.dashboard.candidate.class_figures import draw_class_figures, draw_confusion
from server.dashboard.candidate.measurement_card import draw_devices, draw_layers, draw_measurement
from server.dashboard.candidate.waterline_card import draw_waterline
from server.dashboard.compare_links import networks_url
from server.dashboard.download_link import download_link
from server.dashboard.elements import badge, breadcrumbs, div, heading, metric_stat, text
from server.dashboard.layout import page_layout
from server.dashboard.marks import MarkEditor, mark_of
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.permissions import may_submit
from server.dashboard.polling import Poller


@dataclass(frozen=True)
class CandidateSnapshot:
    """A candidate with its search and the devices of the search that still exist."""

    search: SearchSchema
    detail: CandidateDetailSchema
    devices: tuple[DeviceSchema, ...]
    marks: tuple[MarkSchema, ...]
    principal: PrincipalSchema
    waterline: WaterlineSchema | None = None

    @property
    def protocol(self) -> MeasurementProtocol | None:
        """The protocol of the measurement, if a device still has the profile that was measured with."""
        measurement = self.detail.candidate.measurement
        if measurement is None:
            return None
        profiles = (d.profile for d in self.devices if d.profile_id == measurement.profile)
        return next((p.protocol for p in profiles if p is not None), None)


async def candidate_page(client: Client, search_id: str, arch: str, origin: str) -> None:
    """A candidate of a search."""

    def fetch() -> CandidateSnapshot:
        search = client.search(search_id)
        detail = client.candidate(search_id, arch, origin)
        devices = []
        for name in search.spec.devices:
            with suppress(NotFound):  # removed since; the measurement still names its protocol
                devices.append(client.device(name))
        line = None
        with suppress(NotFound, InvalidInput):  # a device without figures, or with too few measurements to fit them to
            line = client.waterline(search_id, arch, origin)
        return CandidateSnapshot(search, detail, tuple(devices), tuple(client.marks(search_id)), client.me(), line)

    with page_layout(client, f"Candidate {arch}", "") as shell:
        header = MemoizedView(_draw_header)
        mark = MarkEditor(client, search_id, arch)
        page = MemoizedView(_draw, "stack")

        def draw(snapshot: CandidateSnapshot) -> None:
            search = snapshot.search
            mark.show(mark_of(snapshot.marks, arch), editable=may_submit(snapshot.principal))
            header.show(search.spec.name, search.id, snapshot.detail)
            page.show(snapshot.detail, snapshot.protocol, snapshot.waterline)

        await Poller(shell, fetch, draw, lambda _: False).start()


def _draw_header(search_name: str, search_id: str, detail: CandidateDetailSchema) -> None:
    candidate = detail.candidate
    breadcrumbs(("Searches", "/"), (search_name, f"/searches/{search_id}"), (candidate.arch, ""))
    with div("flow").style("margin-top: .35rem"):
        heading(f"Candidate {candidate.arch}")
        badge(candidate.status)
    origins = {"search": "proposed by the search", "baseline": "drawn by the random baseline"}
    origin = origins.get(candidate.origin, f"reference: {candidate.name}")
    on_front = "on the front" if candidate.on_front else "not on the front"
    with div("flow small muted"):
        text(spoken_name(candidate.arch), "spoken", "span")
        text(f"{origin}, {on_front}; input {shape_text(detail.input_shape)}", tag="span")
        ui.link("Compare with another", networks_url(f"{search_id}/{candidate.arch}", ""))


def _draw(detail: CandidateDetailSchema, protocol: MeasurementProtocol | None, line: WaterlineSchema | None) -> None:
    candidate = detail.candidate
    with div("card"), div("figures"):
        for name in (n for n in METRICS if n in candidate.metrics and n != "val_loss"):
            metric_stat(name, candidate.metrics[name])
    if candidate.devices:
        draw_devices(candidate)
    _draw_classes(detail)
    architecture = blocks(detail.layers, detail.choices)
    draw_cells(detail.cells)
    draw_architecture(architecture, detail)
    draw_waterline(line)
    with div("cols even"):
        draw_measurement(candidate, protocol)
        _draw_downloads(detail)
    draw_layers(candidate.measurement)
    draw_choices(architecture, detail.choices)


def _draw_classes(detail: CandidateDetailSchema) -> None:
    if detail.class_recall or detail.confusion is not None:
        with div("card"), div("by-class"):
            draw_class_figures(detail.candidate, detail.class_recall)
            draw_confusion(detail.confusion)


def _draw_downloads(detail: CandidateDetailSchema) -> None:
    with div("card stack"):
        heading("Exported model", 2)
        if not detail.artifacts:
            text("Not exported: front members are exported once they are verified.", "muted")
            return
        with div("scroll"), div("plain", "table"):
            for artifact in detail.artifacts:
                with div("", "tr"):
                    with div("", "td"):
                        download_link(artifact)
                    text(artifact.media_type, "muted", "td")
                    text(f"sha256 {artifact.sha256[:12]}…", "muted mono", "td").tooltip(artifact.sha256)
