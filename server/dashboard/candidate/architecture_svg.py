"""A network as a drawing: its layers in blocks, and the blocks as one SVG. Pure functions of the API's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nas.schemas.candidates import LayerSchema

OPS = ("dense", "pointwise", "depthwise", "se", "linear", "pool")
_LETTERS = {"kernel": "k", "expand": "e", "width": "w", "depth": "d"}


@dataclass(frozen=True)
class Block:
    """Consecutive layers whose names share all before the last dot. Shapes are (channels, height, width)."""

    name: str
    layers: tuple[LayerSchema, ...]
    tags: tuple[str, ...]

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """What it takes."""
        return self.layers[0].in_shape

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """What it gives."""
        return self.layers[-1].out_shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all its layers."""
        return sum(x.macs for x in self.layers)

    @property
    def params(self) -> int:
        """Parameters of all its layers."""
        return sum(x.params for x in self.layers)


def blocks(layers: Sequence[LayerSchema], choices: Mapping[str, int | float | str]) -> list[Block]:
    """The layers grouped; each block is tagged by what was chosen for it (``k5``, ``e4``), or by its kernel."""
    grouped: list[tuple[str, list[LayerSchema]]] = []
    for layer in layers:
        name = layer.name.rpartition(".")[0] or layer.name
        if not grouped or grouped[-1][0] != name:
            grouped.append((name, []))
        grouped[-1][1].append(layer)
    return [Block(name, tuple(some), _tags(name, some, choices)) for name, some in grouped]


def _tags(name: str, layers: Sequence[LayerSchema], choices: Mapping[str, int | float | str]) -> tuple[str, ...]:
    chosen = {key.rpartition(".")[2]: value for key, value in choices.items() if key.rpartition(".")[0] == name}
    tags = [f"{_LETTERS.get(key, key + ' ')}{plain(value)}" for key, value in chosen.items()]
    if not tags:
        kernels = [x.kernel for x in layers if x.kernel is not None]
        tags = [f"k{max(kernels)}"] if kernels else [layers[0].op] if layers[0].op != name else []
    if any(x.op == "se" for x in layers):
        tags.append("SE")
    return tuple(tags)


def plain(value: int | float | str) -> str:
    """A choice as people write it: ``4`` for 4.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def active(choice: str, drawn: Sequence[Block], choices: Mapping[str, int | float | str]) -> bool:
    """False for a choice about a block that this network does not have."""
    part = choice.rpartition(".")[0]
    siblings = {c.rpartition(".")[0] for c in choices if c.rpartition(".")[0].count(".")}
    return part not in siblings or part in {b.name for b in drawn}


def op_class(op: str) -> str:
    """The style sheet's class of an operation."""
    return f"op-{op}" if op in OPS else "op-other"


def shape(c_h_w: tuple[int, int, int]) -> str:
    """``24 × 8 × 8`` for (channels, height, width)."""
    return " × ".join(map(str, c_h_w))


def svg(drawn: Sequence[Block], input_shape: tuple[int, int, int]) -> str:
    """The network from left to right: a block's height is its output's resolution, its width its channels.

    Everything from outside is escaped.
    """
    top, room = 10, 120
    tallest = max(input_shape[1], *(b.out_shape[1] for b in drawn))
    widest = max(b.out_shape[0] for b in drawn)
    heaviest = max(b.macs for b in drawn) or 1
    x, middle = 8.0, top + room / 2
    parts = []
    for name, tags, out, macs in [
        ("input", (), input_shape, 0),
        *((b.name, b.tags, b.out_shape, b.macs) for b in drawn),
    ]:
        width = 14 + 40 * (out[0] / widest) ** 0.5
        height = 10 + (room - 10) * (out[1] / tallest)
        strength = 0.12 + 0.78 * macs / heaviest
        title = f"{name}: {' '.join(tags)} {shape(out)}, {macs:,} MACs"
        centre = x + width / 2
        parts.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect x="{x:.1f}" y="{middle - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" '
            f'fill="var(--c-search)" fill-opacity="{strength:.2f}" stroke="var(--c-search)" stroke-width="1"/>'
            f'<text x="{centre:.1f}" y="{top + room + 16}" class="tag">{escape(" ".join(tags) or name)}</text>'
            f'<text x="{centre:.1f}" y="{top + room + 31}" class="dim">{out[0]}×{out[1]}</text></g>'
        )
        x += max(width + 12, 60)
    total = x + 6
    return (
        f'<svg class="shape" viewBox="0 0 {total:.0f} {top + room + 42}" role="img" '
        f'aria-label="The network from input to output in {len(drawn)} blocks" '
        f'style="min-width:{min(total, 900):.0f}px; max-width:{total * 1.25:.0f}px">'
        f'<line x1="0" x2="{total:.0f}" y1="{middle}" y2="{middle}" stroke="var(--grid)" stroke-width="2"/>'
        f"{''.join(parts)}</svg>"
    )


def interval_svg(low: float, median: float, high: float, claim: float | None) -> str:
    """A measured median in its 95 % interval, beside what had been promised."""
    values = [low, median, high] + ([claim] if claim is not None else [])
    lo, hi = min(values), max(values)
    pad = (hi - lo) * 0.16 or hi * 0.05
    lo, hi = lo - pad, hi + pad

    def at(value: float) -> float:
        return 10 + 380 * (value - lo) / (hi - lo)

    promised = ""
    if claim is not None:
        promised = (
            f'<line x1="{at(claim):.1f}" x2="{at(claim):.1f}" y1="16" y2="44" stroke="var(--c-bad)" stroke-width="2" '
            f'stroke-dasharray="5 3"/><text x="{at(claim):.1f}" y="11" class="dim">claim {claim:.3g} ms</text>'
        )
    left, width = at(low), max(at(high) - at(low), 4.0)
    return (
        '<svg class="shape" viewBox="0 0 400 62" role="img" aria-label="Median and 95 % interval, and the claim" '
        'style="max-width:520px">'
        '<line x1="10" x2="390" y1="30" y2="30" stroke="var(--grid)" stroke-width="2"/>'
        f'<rect x="{left:.1f}" width="{width:.1f}" y="22" height="16" rx="3" fill="var(--c-search)" '
        f'fill-opacity="0.35"/>{promised}'
        f'<circle cx="{at(median):.1f}" cy="30" r="5" fill="var(--c-search)"/>'
        f'<text x="{at(median):.1f}" y="56">{median:.4g} ms</text></svg>'
    )
