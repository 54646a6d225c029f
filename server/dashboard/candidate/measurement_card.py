"""The measurement of a candidate, and its metrics on each device of a fleet."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from nas.core.device import Measurement, MeasurementProtocol, Status
from nas.schemas.candidates import CandidateOnDeviceSchema, CandidateSchema, fallback_sentences
from server.dashboard import formatting
from server.dashboard.candidate.interval_svg import interval_svg
from server.dashboard.elements import badge, definition_list, div, heading, kind_chip, notice, text

_OUTCOMES: Mapping[Status, str] = {
    "verified": "kept",
    "violated": "broken",
    "fallback": "but not all of it ran there",
    "unverified": "too close to call",
}
_LATENCIES = ("predicted_ms", "upper_ms", "measured_ms")


def draw_devices(candidate: CandidateSchema) -> None:
    """Predicted and measured latencies and the status on each device of the search."""
    with div("card"):
        with div("card-head"):
            heading("By device", 2)
            text("a candidate is verified if it is verified on every device", "small muted", "span")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("Device", *(formatting.label(n) for n in _LATENCIES), "Promised", "Status"):
                    text(title, tag="th")
            for name, on_device in candidate.devices.items():
                _draw_device(name, on_device)


def _draw_device(name: str, on_device: CandidateOnDeviceSchema) -> None:
    with div("", "tr"):
        with div("", "td"):
            ui.link(name, f"/devices/{name}")
        for metric in _LATENCIES:
            with div("", "td"), div("flow tight"):
                text(formatting.metric(on_device.metrics, metric), "num", "span")
                if metric in on_device.metrics:
                    kind_chip(on_device.metrics[metric].kind)
        promised_ms = on_device.promised_ms
        text(formatting.MISSING if promised_ms is None else formatting.quantity(promised_ms, "ms"), "num", "td")
        with div("", "td"):
            if on_device.measurement is None:
                text("not measured", "muted", "span")
            else:
                badge(on_device.status)


def draw_measurement(candidate: CandidateSchema, protocol: MeasurementProtocol | None) -> None:
    """The latency in its interval beside the promised latency, and how it was measured."""
    measurement = candidate.measurement
    with div("card stack"):
        heading(_title(candidate), 2)
        if measurement is None:
            text(
                "Not measured. Only front members are measured on the device; the values above are predicted or "
                "estimated.",
                "muted",
            )
            if candidate.extrapolated:
                notice(
                    "warn",
                    "Outside the domain of the latency predictor",
                    "No network like it was measured on the device: its predicted latency and bound may not hold.",
                )
            return
        if measurement.refused is not None:
            notice("warn", "The times say nothing, so no latency is reported", measurement.refused)
        else:
            _draw_interval(candidate, measurement)
        for where in fallback_sentences(candidate):
            notice("warn", "Not all of it ran where the device says", formatting.sentence(where))
        definition_list(
            [
                *_measured_rows(measurement),
                ("Runs", f"{measurement.runs:,}"),
                ("Variation between sittings", f"{measurement.variation * 100:.1f} %"),
                ("Drift of the device", f"{measurement.drift:.3f} × its time when profiled, corrected"),
                ("Undisturbed", f"{measurement.undisturbed:.0%} of the chunks; only these count"),
                *(_protocol_rows(protocol) if protocol is not None else ()),
                ("Protocol id", measurement.protocol),
                ("Device profile id", measurement.profile),
            ]
        )


def _title(candidate: CandidateSchema) -> str:
    measurement = candidate.measurement
    devices = candidate.devices.items() if measurement is not None else ()
    slowest = next((name for name, on_device in devices if on_device.measurement == measurement), None)
    return "Measurement" if slowest is None else f"Measurement on {slowest}, the slowest"


def _draw_interval(candidate: CandidateSchema, measurement: Measurement) -> None:
    low, median, high = measurement.low_ms, measurement.median_ms, measurement.high_ms
    if low is None or median is None or high is None:
        return
    promised_ms = candidate.promised_ms
    low_text, median_text, high_text = (formatting.significant(ms, 4) for ms in (low, median, high))
    with div():
        ui.html(interval_svg(low, median, high, promised_ms), sanitize=False)
        text(f"{median_text} ms, 95 % interval {low_text} to {high_text} ms", "strong num")
        if promised_ms is not None:
            outcome = _OUTCOMES[candidate.status]
            promise = f"at most {formatting.significant(promised_ms, 4)} ms"
            text(f"Promised before measuring: {promise}, {outcome}", "small muted")


def draw_layers(measurement: Measurement | None) -> None:
    """What each node of the network takes as the runtime runs it, and what all of them take beside the whole."""
    if measurement is None or not measurement.layers:
        return
    total_ms = sum(layer.ms for layer in measurement.layers)
    with div("card"):
        with div("card-head"):
            heading("By layer, as the runtime runs it", 2)
            text(_sum_text(total_ms, measurement.median_ms), "small muted", "span")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for title in ("Node", "Operator", "Provider", "Measured ms", "Share"):
                    text(title, tag="th")
            for layer in measurement.layers:
                with div("", "tr"):
                    text(layer.name, "mono small", "td")
                    text(layer.operator, tag="td")
                    text(layer.provider, tag="td")
                    text(formatting.significant(layer.ms, 3), "num", "td")
                    text(f"{layer.ms / total_ms:.0%}" if total_ms else formatting.MISSING, "num", "td")


def _sum_text(total_ms: float, median_ms: float | None) -> str:
    total_text = "" if median_ms is None else f", the whole network {formatting.significant(median_ms, 4)} ms"
    return f"sum {formatting.significant(total_ms, 4)} ms under the profiler{total_text}"


def _measured_rows(measurement: Measurement) -> list[tuple[str, str]]:
    """Placement, memory and energy, where they were measured."""
    rows = []
    if measurement.placement is not None:
        rows.append(("Placement", formatting.sentence(measurement.placement.sentence)))
    if measurement.peak_bytes is not None:
        rows.append(("Memory that the process grew by", f"{measurement.peak_bytes / 1e6:.1f} MB"))
    if measurement.gpu is not None:
        rows.append(("Clock of the GPU", measurement.gpu.sentence))
    if measurement.energy_mj is not None:
        rows.append(("Energy of an inference", formatting.quantity(measurement.energy_mj, "mJ")))
    return rows


def _protocol_rows(protocol: MeasurementProtocol) -> list[tuple[str, str]]:
    p = protocol
    return [
        ("Batch, threads, precision", f"{p.batch}, {p.threads}, {p.precision}"),
        ("Protocol version", f"{p.version}"),
        ("Sittings", f"at least {p.sittings}, each in a process of its own, with visits of {p.visit_ms:g} ms"),
        ("A chunk counts", f"if the canary beside it is within {p.gate * 100:g} % of its undisturbed level"),
    ]
