"""``/searches/{id}/subnets/{arch}``: one network, what it is and what is known about it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from nas.client import Client
from nas.core.errors import NotFound
from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateDetailSchema, CandidateSchema, MeasurementSchema
from nas.schemas.devices import DeviceSchema
from nas.schemas.searches import SearchSchema
from server.dashboard import formatting
from server.dashboard.candidate import architecture_svg, cell_svg
from server.dashboard.candidate.architecture_svg import op_class, shape
from server.dashboard.elements import (
    badge,
    breadcrumbs,
    definition_list,
    div,
    heading,
    kind_chip,
    metric_stat,
    notice,
    text,
)
from server.dashboard.layout import page_layout
from server.dashboard.memoized_view import MemoizedView
from server.dashboard.polling import Poller
from server.dashboard.search.page import download


@dataclass(frozen=True)
class Shown:
    """What the page shows, as the API gave it."""

    search: SearchSchema
    subnet: CandidateDetailSchema
    devices: tuple[DeviceSchema, ...]


async def subnet_page(client: Client, search_id: str, arch: str, origin: str) -> None:
    """A network of a search."""

    def fetch() -> Shown:
        search = client.search(search_id)
        subnet = client.subnet(search_id, arch, origin)
        devices = []
        for name in search.spec.devices:
            with suppress(NotFound):  # removed since; the measurement still names its protocol
                devices.append(client.device(name))
        return Shown(search, subnet, tuple(devices))

    with page_layout(client, f"Network {arch}", "") as shell:
        page = MemoizedView(_draw)

        def draw(shown: Shown) -> None:
            page.show(shown.search.spec.name, shown.search.id, shown.subnet, _protocol(shown))

        await Poller(shell, fetch, draw, lambda _: False).start()


def _protocol(shown: Shown) -> dict[str, Any] | None:
    """The protocol in words, if the device's profile is still the one that was measured with."""
    measured = shown.subnet.point.measurement
    profiles = {d.profile_id: d.profile for d in shown.devices if d.profile is not None}
    profile = profiles.get(measured.profile) if measured is not None else None
    return profile["protocol"] if profile is not None else None


def _draw(name: str, search_id: str, subnet: CandidateDetailSchema, protocol: dict[str, Any] | None) -> None:
    point = subnet.point
    with div("stack"):
        with div():
            breadcrumbs(("Searches", "/"), (name, f"/searches/{search_id}"), (point.arch, ""))
            with div("flow").style("margin-top: .35rem"):
                heading(f"Network {point.arch}")
                badge(point.status)
            origin = "found by the search" if point.origin == "search" else "drawn by the random baseline"
            on_front = "on the front" if point.on_front else "not on the front"
            text(f"{origin}, {on_front}; input {shape(subnet.input_shape)}", "small muted")
        with div("card"), div("figures"):
            for metric in [m for m in METRICS if m in point.metrics and m != "val_loss"]:
                metric_stat(metric, point.metrics[metric])
        if point.devices:
            _draw_devices(point)
        drawn = architecture_svg.blocks(subnet.layers, subnet.choices)
        _draw_cells(subnet)
        _draw_architecture(drawn, subnet)
        with div("cols even"):
            _draw_measurement(point, protocol)
            _draw_downloads(subnet)
        _draw_choices(drawn, subnet)


def _draw_cells(subnet: CandidateDetailSchema) -> None:
    if not subnet.cells:
        return
    with div("card"):
        with div("card-head"):
            heading("Cell" if len(subnet.cells) == 1 else "Cells", 2)
            text("each edge carries one operation; a node adds up what reaches it", "small muted", "span")
        ui.html(cell_svg.figures([(cell, cell_svg.chosen(cell)) for cell in subnet.cells]), sanitize=False)


def _draw_architecture(drawn: list[architecture_svg.Block], subnet: CandidateDetailSchema) -> None:
    if not drawn:
        return
    heaviest = max(b.macs for b in drawn) or 1
    with div("card"):
        with div("card-head"):
            heading("Architecture", 2)
            text("height: resolution · width: channels · shade: MACs", "small muted", "span")
        with div("scroll"):
            ui.html(architecture_svg.svg(drawn, subnet.input_shape), sanitize=False)
        with div("flow small muted").style("margin: .9rem 0 .5rem"):
            used = {x.op for x in subnet.layers if x.macs}
            for op in [o for o in architecture_svg.OPS if o in used] + sorted(used - set(architecture_svg.OPS)):
                with div("flow tight"):
                    div(f"swatch {op_class(op)}")
                    text("squeeze-excite" if op == "se" else op, tag="span")
        with div("lblock head"):
            for title in ("Block", "MACs by operation", "Output shape", "Parameters", "MACs"):
                text(title)
        for block in drawn:
            with div("lblock"):
                with div():
                    text(block.name)
                    with div("flow tight"):
                        for tag in block.tags:
                            text(tag, "op-tag", "span")
                with div(), div("macs"):
                    for layer in block.layers:
                        if layer.macs:
                            with div(op_class(layer.op)).style(f"width: {100 * layer.macs / heaviest:.2f}%"):
                                ui.tooltip(
                                    f"{layer.name}: {layer.op} {layer.detail}, {shape(layer.in_shape)} to "
                                    f"{shape(layer.out_shape)}, {formatting.count(layer.macs)} MACs"
                                )
                text(shape(block.out_shape))
                text(formatting.count(block.params))
                text(formatting.count(block.macs))


def _draw_devices(point: CandidateSchema) -> None:
    """What is known on each device of the search."""
    names = ("predicted_ms", "upper_ms", "measured_ms")
    with div("card"):
        with div("card-head"):
            heading("By device", 2)
            text("verified is only what is verified on every device", "small muted", "span")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("Device", *(formatting.label(n) for n in names), "Claimed", "Status"):
                    text(title, tag="th")
            for device, part in point.devices.items():
                with div("", "tr"):
                    with div("", "td"):
                        ui.link(device, f"/devices/{device}")
                    for n in names:
                        with div("", "td"), div("flow tight"):
                            text(formatting.metric(part.metrics, n), "num", "span")
                            if n in part.metrics:
                                kind_chip(part.metrics[n].kind)
                    claim = formatting.NONE if part.claim_ms is None else formatting.quantity(part.claim_ms, "ms")
                    text(claim, "num", "td")
                    with div("", "td"):
                        if part.measurement is None:
                            text("not measured", "muted", "span")
                        else:
                            badge(part.status)


def _draw_measurement(point: CandidateSchema, protocol: dict[str, Any] | None) -> None:
    with div("card stack"):
        m = point.measurement
        slowest = next((name for name, d in point.devices.items() if m is not None and d.measurement == m), None)
        heading("Measurement" if slowest is None else f"Measurement on {slowest}, the slowest", 2)
        if m is None:
            text(
                "Not measured. Only front members are measured on the device; what is shown above is predicted or "
                "estimated.",
                "muted",
            )
            return
        if m.refused is not None:
            notice("warn", "The device was too unsteady, so no latency is reported", m.refused)
        elif m.median_ms is not None and m.low_ms is not None and m.high_ms is not None:
            _draw_interval(point, m, m.low_ms, m.median_ms, m.high_ms)
        definition_list(
            [
                ("Runs", f"{m.runs:,}"),
                ("Variation between rounds", f"{m.variation * 100:.1f} %"),
                ("Drift of the device", f"{m.drift:.3f} × its speed when profiled, divided out"),
                *_protocol_facts(protocol),
                ("Protocol id", m.protocol),
                ("Device profile id", m.profile),
            ]
        )


def _draw_interval(point: CandidateSchema, m: MeasurementSchema, low: float, median: float, high: float) -> None:
    with div():
        ui.html(architecture_svg.interval_svg(low, median, high, point.claim_ms), sanitize=False)
        text(
            f"Median {formatting.significant(median, 4)} ms, 95 % interval {formatting.significant(low, 4)} to "
            f"{formatting.significant(high, 4)} ms",
            "strong num",
        )
        if point.claim_ms is not None:
            kept = "kept" if median <= point.claim_ms else "broken"
            text(
                f"Claimed before measuring: at most {formatting.significant(point.claim_ms, 4)} ms, {kept}",
                "small muted",
            )


def _protocol_facts(protocol: dict[str, Any] | None) -> list[tuple[str, str]]:
    if protocol is None:
        return []
    p = protocol
    return [
        ("Batch, threads, precision", f"{p['batch']}, {p['threads']}, {p['precision']}"),
        ("Rounds", f"{p['rounds']} of {p['block_ms']:g} ms each after {p['warmup_ms']:g} ms of warm-up"),
        ("Refused beyond", f"{p['max_variation'] * 100:g} % variation, {p['max_drift'] * 100:g} % drift"),
    ]


def _draw_downloads(subnet: CandidateDetailSchema) -> None:
    with div("card stack"):
        heading("Downloads", 2)
        if not subnet.artifacts:
            text("No files: front members are exported once they are verified.", "muted")
            return
        with div("scroll"), div("plain", "table"):
            for a in subnet.artifacts:
                with div("", "tr"):
                    with div("", "td"):
                        download(a)
                    text(a.media_type, "muted", "td")
                    with text(f"sha256 {a.sha256[:12]}…", "muted mono", "td"):
                        ui.tooltip(a.sha256)


def _draw_choices(drawn: list[architecture_svg.Block], subnet: CandidateDetailSchema) -> None:
    with div("card"), div("fold", "details"):
        text(f"Choices ({len(subnet.choices)})", tag="summary")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                text("Decision", tag="th")
                text("Choice", tag="th")
            for name, value in subnet.choices.items():
                used = architecture_svg.active(name, drawn, subnet.choices)
                with div("" if used else "muted", "tr"):
                    text(name, "mono", "td")
                    shown = architecture_svg.plain(value)
                    text(shown if used else f"{shown} (not used at this depth)", "", "td")
