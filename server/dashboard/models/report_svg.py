"""An intake report layers on the architecture: each layer with what may become of it. Pure functions of the report."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

from nas.models.blocks import ResidualBlock
from nas.models.intake import IntakeReport, OutlinedLayer

Freedom = Literal["narrowed", "fixed"]

_STEP, _MARGIN = 26, 10  # pixels from one layer to the next, and before the first
_MAP_HEIGHT, _BLOCK_HEIGHT = 110, 16
_COLOURS: dict[Freedom, str] = {"narrowed": "var(--c-search)", "fixed": "var(--ink-2)"}


@dataclass(frozen=True)
class DrawnLayer:
    """A layer and what the report says of its channels, in a sentence."""

    layer: OutlinedLayer
    freedom: Freedom
    sentence: str


def drawn_layers(report: IntakeReport) -> list[DrawnLayer]:
    """All layers with weights, in the order of the model."""
    groups = {name: group for group in report.groups for name in group.layers}
    reasons = {fixed.layer: fixed for fixed in report.fixed}
    layers = []
    for layer in report.layers:
        if (group := groups.get(layer.name)) is not None:
            companions = [name for name in group.layers if name != layer.name]
            together = f", together with {', '.join(companions)}" if companions else ""
            layers.append(DrawnLayer(layer, "narrowed", f"may keep 1 to {group.units} units{together}"))
        elif (fixed := reasons.get(layer.name)) is not None:
            layers.append(DrawnLayer(layer, "fixed", f"stays as wide as it is: {fixed.cause}: {fixed.reason}"))
        else:
            layers.append(DrawnLayer(layer, "fixed", "stays as wide as it is"))
    return layers


def report_svg(report: IntakeReport) -> str:
    """The layers from left to right: height is the output's resolution, thickness its channels, colour whether it may
    be narrowed. Brackets above are residual blocks, which may be skipped. Names from the model are escaped."""
    layers = drawn_layers(report)
    places = {entry.layer.name: i for i, entry in enumerate(layers)}
    levels = _levels(report.blocks, places)
    top = 8 + _BLOCK_HEIGHT * (max(levels.values(), default=-1) + 1)
    boxes = [_layer_box(entry, i, layers, top) for i, entry in enumerate(layers)]
    brackets = [_bracket(b, places, levels[b.name], top) for b in report.blocks if b.name in levels]
    width, height = 2 * _MARGIN + _STEP * len(layers), top + _MAP_HEIGHT + 8
    middle = top + _MAP_HEIGHT / 2
    label = (
        f"The model from input to output: {len(layers)} layers, {len(report.groups)} groups of channels that may be "
        f"narrowed, {len(report.blocks)} blocks that may be skipped"
    )
    return (
        f'<svg class="shape" viewBox="0 0 {width} {height}" role="img" aria-label="{label}" '
        f'style="min-width:{min(width, 900)}px; max-width:{width * 1.25:.0f}px">'
        f'<line x1="0" x2="{width}" y1="{middle}" y2="{middle}" stroke="var(--grid)" stroke-width="2"/>'
        f"{''.join(boxes)}{''.join(brackets)}</svg>"
    )


def _layer_box(entry: DrawnLayer, place: int, layers: list[DrawnLayer], top: int) -> str:
    layer = entry.layer
    width = 5 + (_STEP - 9) * (layer.channels / max(d.layer.channels for d in layers)) ** 0.5
    height = 10 + (_MAP_HEIGHT - 10) * layer.size / max(d.layer.size for d in layers)
    x, y = _MARGIN + _STEP * (place + 0.5) - width / 2, top + (_MAP_HEIGHT - height) / 2
    title = f"{layer.name} ({layer.kind}), {layer.channels} channels: {entry.sentence}"
    return (
        f"<g><title>{escape(title)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="{_COLOURS[entry.freedom]}" fill-opacity="0.7" stroke="{_COLOURS[entry.freedom]}"/></g>'
    )


def _span(block: ResidualBlock, places: dict[str, int]) -> tuple[int, int] | None:
    """The first and the last layer of a block; None for a block without layers."""
    inner = [places[name] for name in block.layers if name in places]
    return (min(inner), max(inner)) if inner else None


def _levels(blocks: tuple[ResidualBlock, ...], places: dict[str, int]) -> dict[str, int]:
    """By block, how high its bracket lies, so that no two cross: blocks inside other ones lie lower."""
    levels: dict[str, int] = {}
    spans: list[tuple[int, int, int]] = []
    spanned = [(span, block.name) for block in blocks if (span := _span(block, places)) is not None]
    for (first, last), name in sorted(spanned, key=lambda pair: pair[0][1] - pair[0][0]):
        used = {level for start, end, level in spans if start <= last and first <= end}
        level = next(i for i in range(len(spanned)) if i not in used)
        levels[name] = level
        spans.append((first, last, level))
    return levels


def _bracket(block: ResidualBlock, places: dict[str, int], level: int, top: int) -> str:
    span = _span(block, places)
    assert span is not None
    start_x, end_x = _MARGIN + _STEP * span[0] + 3, _MARGIN + _STEP * (span[1] + 1) - 3
    y = top - 6 - _BLOCK_HEIGHT * level
    title = f"{block.name}: may be skipped, with {', '.join(block.layers)}"
    return (
        f"<g><title>{escape(title)}</title>"
        f'<path d="M{start_x} {y} v-8 H{end_x} v8" fill="none" stroke="var(--c-random)" stroke-width="2"/></g>'
    )
