"""An architecture as a drawing: its layers in blocks, and the blocks as one SVG. Pure functions of the API's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nas.core.layers import MapShape
from nas.core.network import LayerSummary

# With a colour in the style sheet.
OPERATIONS = ("dense", "pointwise", "depthwise", "se", "patches", "attention", "linear", "pool")
_LETTERS = {"kernel": "k", "expand": "e", "width": "w", "depth": "d"}
_TOP, _HEIGHT = 10, 120

Choices = Mapping[str, int | float | str]


@dataclass(frozen=True)
class LayerBlock:
    """Consecutive layers whose names are equal up to the last dot."""

    name: str
    layers: tuple[LayerSummary, ...]
    tags: tuple[str, ...]

    @property
    def in_shape(self) -> MapShape:
        """The shape of its input."""
        return self.layers[0].in_shape

    @property
    def out_shape(self) -> MapShape:
        """The shape of its output."""
        return self.layers[-1].out_shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all its layers."""
        return sum(x.macs for x in self.layers)

    @property
    def params(self) -> int:
        """Parameters of all its layers."""
        return sum(x.params for x in self.layers)


def blocks(layers: Sequence[LayerSummary], choices: Choices) -> list[LayerBlock]:
    """The layers grouped; each block is tagged by the choices for it (``k5``, ``e4``), or by its kernel."""
    grouped: list[tuple[str, list[LayerSummary]]] = []
    for layer in layers:
        name = layer.name.rpartition(".")[0] or layer.name
        if not grouped or grouped[-1][0] != name:
            grouped.append((name, []))
        grouped[-1][1].append(layer)
    return [LayerBlock(name, tuple(members), _tags(name, members, choices)) for name, members in grouped]


def _tags(name: str, layers: Sequence[LayerSummary], choices: Choices) -> tuple[str, ...]:
    own_choices = {key.rpartition(".")[2]: value for key, value in choices.items() if key.rpartition(".")[0] == name}
    tags = [f"{_LETTERS.get(key, key + ' ')}{choice_text(value)}" for key, value in own_choices.items()]
    if not tags:
        kernels = [x.kernel for x in layers if x.kernel is not None]
        tags = [f"k{max(kernels)}"] if kernels else [layers[0].op] if layers[0].op != name else []
    if any(x.op == "se" for x in layers):
        tags.append("SE")
    return tuple(tags)


def choice_text(value: int | float | str) -> str:
    """A choice as people write it: ``4`` for 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_used(decision: str, drawn_blocks: Sequence[LayerBlock], choices: Choices) -> bool:
    """False for a decision about a block that this architecture does not have."""
    block = decision.rpartition(".")[0]
    optional_blocks = {c.rpartition(".")[0] for c in choices if c.rpartition(".")[0].count(".")}
    return block not in optional_blocks or block in {b.name for b in drawn_blocks}


def operation_class(op: str) -> str:
    """The style sheet's class of an operation."""
    return f"op-{op}" if op in OPERATIONS else "op-other"


def shape_text(c_h_w: MapShape) -> str:
    """``24 × 8 × 8`` for (channels, height, width)."""
    return " × ".join(map(str, c_h_w))


def architecture_svg(drawn_blocks: Sequence[LayerBlock], input_shape: MapShape) -> str:
    """The architecture from left to right: a block's height is its output's resolution, its width its channels.

    Names from the space are escaped.
    """
    max_height = max(input_shape[1], *(b.out_shape[1] for b in drawn_blocks))
    max_channels = max(b.out_shape[0] for b in drawn_blocks)
    max_macs = max(b.macs for b in drawn_blocks) or 1
    x, middle = 8.0, _TOP + _HEIGHT / 2
    boxes = []
    for name, tags, out, macs in [
        ("input", (), input_shape, 0),
        *((b.name, b.tags, b.out_shape, b.macs) for b in drawn_blocks),
    ]:
        width = 14 + 40 * (out[0] / max_channels) ** 0.5
        height = 10 + (_HEIGHT - 10) * (out[1] / max_height)
        opacity = 0.12 + 0.78 * macs / max_macs
        title = f"{name}: {' '.join(tags)} {shape_text(out)}, {macs:,} MACs"
        centre = x + width / 2
        boxes.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect x="{x:.1f}" y="{middle - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" '
            f'fill="var(--c-search)" fill-opacity="{opacity:.2f}" stroke="var(--c-search)" stroke-width="1"/>'
            f'<text x="{centre:.1f}" y="{_TOP + _HEIGHT + 16}" class="tag">{escape(" ".join(tags) or name)}</text>'
            f'<text x="{centre:.1f}" y="{_TOP + _HEIGHT + 31}" class="dim">{out[0]}×{out[1]}</text></g>'
        )
        x += max(width + 12, 60)
    total = x + 6
    return (
        f'<svg class="shape" viewBox="0 0 {total:.0f} {_TOP + _HEIGHT + 42}" role="img" '
        f'aria-label="The architecture from input to output in {len(drawn_blocks)} blocks" '
        f'style="min-width:{min(total, 900):.0f}px; max-width:{total * 1.25:.0f}px">'
        f'<line x1="0" x2="{total:.0f}" y1="{middle}" y2="{middle}" stroke="var(--grid)" stroke-width="2"/>'
        f"{''.join(boxes)}</svg>"
    )
