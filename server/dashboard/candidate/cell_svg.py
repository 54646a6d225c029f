"""Cells as graphs: the operation on each edge of an architecture, or the strongest one while a search runs.

One SVG for each kind of cell, upright, so that it fits a telephone. Pure functions of the API's schemas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nas.core.cells import CellGraph
from nas.core.events import Traced

NONE = "none"
COLOURS = 8  # classes ``cell-op0`` and on of the style sheet
_NODE_WIDTH, _NODE_X, _ARC_STEP, _NODE_STEP, _TOP = 52, 16, 47, 46, 24  # in units of the view box
_LABEL_HALF_WIDTH = 44  # of the longest label


@dataclass(frozen=True)
class Arc:
    """An edge as it is drawn. ``weight`` of its operation, 0 to 1, None in an architecture. ``faint``: discretisation
    would remove it now."""

    start: int
    end: int
    operation: str
    weight: float | None = None
    faint: bool = False


def of_architecture(cell: CellGraph) -> list[Arc]:
    """The edges of an architecture that have an operation."""
    return [Arc(e.start, e.end, e.operation) for e in cell.edges if e.operation not in ("", NONE)]


def strongest(cell: CellGraph, trace: Traced) -> list[Arc]:
    """The strongest operation of every edge by the table of a trace.

    If nodes keep only ``cell.inputs`` of their edges, ``none`` does not count, and all but the strongest edges into
    each node are faint. Edges without a row in the table, or whose operations were all pruned, are omitted.
    """
    columns = trace.columns
    rows = dict(zip(trace.rows, trace.table, strict=True))
    choices = [i for i, name in enumerate(columns) if cell.inputs is None or name != NONE]
    arcs: list[Arc] = []
    for e in cell.edges:
        row = rows.get(e.name)
        if row is not None and any(row):
            best = max(choices, key=lambda i: row[i])
            arcs.append(Arc(e.start, e.end, columns[best], float(row[best])))
    if cell.inputs is None:
        return arcs
    ranked = sorted(arcs, key=lambda a: (a.end, -(a.weight or 0.0), a.start))
    position = {a: [b for b in ranked if b.end == a.end].index(a) for a in arcs}
    return [Arc(a.start, a.end, a.operation, a.weight, position[a] >= cell.inputs) for a in arcs]


def short(operation: str) -> str:
    """A short label of an operation: ``sep 3×3`` for ``sep_conv_3x3``."""
    terms = re.sub(r"(\d+)x(\d+)", r"\1×\2", operation).split("_")
    terms = [t for t in terms if t not in ("nor", "connect")]
    if len(terms) > 2:
        terms = [t for t in terms if t not in ("conv", "pool")]
    return " ".join(terms)


def colour(cell: CellGraph, operation: str) -> str:
    """The style sheet's class of an operation, by its position among the cell's operations other than ``none``."""
    if operation == NONE or operation not in cell.operations:
        return "cell-none"
    return f"cell-op{[o for o in cell.operations if o != NONE].index(operation) % COLOURS}"


def description(cell: CellGraph, arcs: Sequence[Arc]) -> str:
    """The graph in words, for screen readers."""
    edges = [
        f"{short(a.operation)} from {cell.nodes[a.start]} to {cell.nodes[a.end]}"
        + ("" if a.weight is None else f", weight {a.weight:.2f}")
        for a in arcs
        if not a.faint
    ]
    return f"{cell.name}: " + ("; ".join(edges) or "nothing leads from input to output")


def svg(cell: CellGraph, arcs: Sequence[Arc]) -> str:
    """Nodes from top to bottom, an arc for every edge with its operation at the apex; edges without an operation on the
    left. Names from the space are escaped."""
    right = _NODE_X + _NODE_WIDTH
    widest = max((e.end - e.start for e in cell.edges if e.name), default=1)
    width = right + _ARC_STEP * widest + _LABEL_HALF_WIDTH + 4
    height = _TOP + _NODE_STEP * (len(cell.nodes) - 1) + _TOP
    lines = [_arc(cell, a, right) for a in sorted(arcs, key=lambda a: (not a.faint, a.weight or 0.0))]
    labels = [_label(cell, a, right) for a in arcs if not a.faint]
    nodes = [
        f'<rect x="{_NODE_X}" y="{_y(i) - 13}" width="{_NODE_WIDTH}" height="26" rx="7"/>'
        f'<text x="{_NODE_X + _NODE_WIDTH / 2}" y="{_y(i) + 4}">{escape(name)}</text>'
        for i, name in enumerate(cell.nodes)
    ]
    return (
        f'<svg class="cell" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description(cell, arcs))}" '
        f'style="max-width:{width}px">{_pass_through(cell)}{"".join(lines)}'
        f'<g class="nodes">{"".join(nodes)}</g>{"".join(labels)}</svg>'
    )


def side_by_side(cells: Sequence[tuple[CellGraph, Sequence[Arc]]]) -> str:
    """All kinds of cells side by side, or one below the other on a narrow screen."""
    named = len(cells) > 1
    figures = [
        f"<figure>{f'<figcaption>{escape(cell.name)}</figcaption>' if named else ''}{svg(cell, arcs)}</figure>"
        for cell, arcs in cells
    ]
    return f'<div class="cells">{"".join(figures)}</div>'


def _y(node: int) -> int:
    return _TOP + _NODE_STEP * node


def _apex(arc: Arc, right: int) -> tuple[float, float]:
    return right + _ARC_STEP * (arc.end - arc.start), (_y(arc.start) + _y(arc.end)) / 2


def _title(cell: CellGraph, arc: Arc) -> str:
    strength = "" if arc.weight is None else f", weight {arc.weight:.3f}"
    rank = ", not among the strongest into its node" if arc.faint else ""
    return (
        f"<title>{escape(f'{cell.nodes[arc.start]} to {cell.nodes[arc.end]}: {arc.operation}{strength}{rank}')}</title>"
    )


def _arc(cell: CellGraph, arc: Arc, right: int) -> str:
    top, bottom = _y(arc.start) + 6, _y(arc.end) - 6
    out = right + (_apex(arc, right)[0] - right) / 0.75  # where a cubic's handles are for its apex to be there
    strength = 1.0 if arc.weight is None else 0.2 + 0.8 * min(1.0, max(0.0, arc.weight))
    kind = f"{colour(cell, arc.operation)}{' faint' if arc.faint else ''}"
    return (
        f'<g class="{kind}" opacity="{strength:.2f}">{_title(cell, arc)}'
        f'<path d="M{right} {top}C{out:.1f} {top} {out:.1f} {bottom} {right + 5} {bottom}"/>'
        f'<path class="head" d="M{right} {bottom}l8 -4v8z"/></g>'
    )


def _label(cell: CellGraph, arc: Arc, right: int) -> str:
    x, y = _apex(arc, right)
    weight = "" if arc.weight is None else f' <tspan class="weight">{arc.weight:.2f}</tspan>'
    return (
        f'<text class="op" x="{x:.1f}" y="{y + 4:.1f}">{_title(cell, arc)}{escape(short(arc.operation))}{weight}</text>'
    )


def _pass_through(cell: CellGraph) -> str:
    ends = [(e.start, e.end) for e in cell.edges if not e.name]
    if not ends:
        return ""
    bus = 6
    stubs = "".join(f"M{_NODE_X} {_y(a)}H{bus}" for a, _ in ends)
    first, last = min(a for a, _ in ends), max(b for _, b in ends)
    return (
        f'<g class="passing"><title>{escape(cell.nodes[last])} joins the channels of these nodes</title>'
        f'<path d="{stubs}M{bus} {_y(first)}V{_y(last)}H{_NODE_X - 5}"/>'
        f'<path class="head" d="M{_NODE_X} {_y(last)}l-8 -4v8z"/></g>'
    )
