"""The waterline of a candidate: its layers as bars above and below the level of the machine."""

from __future__ import annotations

from html import escape
from math import log10

from nicegui import ui

from nas.schemas.waterlines import WaterlineSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text

_WIDTH, _HEIGHT, _TOP = 880, 150, 8
_MOST_BLOCKS = 5  # of which it is said what fusing saves


def draw_waterline(line: WaterlineSchema | None) -> None:
    """The bars and the blocks that fusing would speed up most; nothing where no figures of the machine are known."""
    if line is None:
        return
    with div("card"):
        with div("card-head"):
            heading("Waterline", 2)
            text(
                "width: least time · height: operations per byte moved · "
                f"line: the machine's own, {line.level:.3g} operations per byte",
                "small muted",
                "span",
            )
        ui.html(waterline_svg(line), sanitize=False)
        text(
            f"At least {formatting.significant(line.ms, 3)} ms, computed and not measured, of which the machine "
            f"computes at its peak for {line.efficiency:.0%}; {line.memory_share:.0%} go to layers that wait for "
            f"memory. {line.source_sentence}"
        )
        saving = sorted((b for b in line.blocks if b.saved_ms > 0), key=lambda b: -b.saved_ms)[:_MOST_BLOCKS]
        if saving:
            text(
                "As one kernel each, these blocks would save most: "
                + "; ".join(f"{b.name} {formatting.significant(b.saved_ms, 2)} ms" for b in saving)
                + ".",
                "small muted",
            )


def waterline_svg(line: WaterlineSchema) -> str:
    """A bar for each layer, as wide as its share of the time and as high as the logarithm of its intensity; names are
    escaped."""
    logs = [log10(max(layer.intensity, 1e-3)) for layer in line.layers]
    low, high = min(*logs, log10(line.level), 0.0) - 0.1, max(*logs, log10(line.level)) + 0.1

    def y(log_intensity: float) -> float:
        return _TOP + _HEIGHT * (1 - (log_intensity - low) / (high - low))

    x, bars = 0.0, list[str]()
    for layer, log_intensity in zip(line.layers, logs, strict=True):
        width = _WIDTH * layer.ms / line.ms
        colour = "var(--c-bad)" if layer.bound == "memory" else "var(--c-search)"
        title = (
            f"{layer.name}: {layer.op}, {layer.intensity:.3g} operations per byte, "
            f"{formatting.significant(layer.ms, 3)} ms at least, bound by {layer.bound}"
        )
        bars.append(
            f'<g><title>{escape(title)}</title><rect x="{x:.1f}" width="{max(width - 0.6, 0.4):.1f}" '
            f'y="{y(log_intensity):.1f}" height="{y(low) - y(log_intensity):.1f}" fill="{colour}" '
            'fill-opacity="0.6"/></g>'
        )
        x += width
    level = y(log10(line.level))
    return (
        f'<svg class="shape" viewBox="0 0 {_WIDTH} {_TOP + _HEIGHT + 6}" role="img" '
        f'aria-label="Operations per byte of {len(line.layers)} layers beside those of the machine">{"".join(bars)}'
        f'<line x1="0" x2="{_WIDTH}" y1="{level:.1f}" y2="{level:.1f}" stroke="var(--ink-2)" stroke-width="1.5" '
        'stroke-dasharray="6 3"/></svg>'
    )
