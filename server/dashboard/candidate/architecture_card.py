"""The architecture of a candidate: cells, blocks with their layers, and choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nicegui import ui

from nas.core.cells import CellGraph
from nas.core.network import LayerSummary
from nas.schemas.candidates import CandidateDetailSchema
from server.dashboard import formatting
from server.dashboard.candidate import cell_svg
from server.dashboard.candidate.architecture_svg import (
    OPERATIONS,
    LayerBlock,
    architecture_svg,
    choice_text,
    is_used,
    operation_class,
    shape_text,
)
from server.dashboard.elements import div, heading, text


def draw_cells(cells: Sequence[CellGraph]) -> None:
    """The cells as graphs, of a space that has cells."""
    if not cells:
        return
    with div("card"):
        with div("card-head"):
            heading("Cell" if len(cells) == 1 else "Cells", 2)
            text("each edge applies one operation; a node is the sum of its inputs", "small muted", "span")
        drawing = cell_svg.side_by_side([(cell, cell_svg.of_architecture(cell)) for cell in cells])
        ui.html(drawing, sanitize=False)


def draw_architecture(blocks: Sequence[LayerBlock], detail: CandidateDetailSchema) -> None:
    """The blocks as a drawing, and as a table with the MACs of every layer."""
    if not blocks:
        return
    with div("card"):
        with div("card-head"):
            heading("Architecture", 2)
            text("height: resolution · width: channels · shade: MACs", "small muted", "span")
        with div("scroll"):
            ui.html(architecture_svg(blocks, detail.input_shape), sanitize=False)
        _draw_legend(detail.layers)
        with div("lblock head"):
            for title in ("Block", "MACs by operation", "Output shape", "Parameters", "MACs"):
                text(title)
        most_macs = max(b.macs for b in blocks) or 1
        for block in blocks:
            _draw_block(block, most_macs)


def _draw_legend(layers: Sequence[LayerSummary]) -> None:
    used = {x.op for x in layers if x.macs}
    with div("flow small muted").style("margin: .9rem 0 .5rem"):
        for op in [o for o in OPERATIONS if o in used] + sorted(used - set(OPERATIONS)):
            with div("flow tight"):
                div(f"swatch {operation_class(op)}")
                text("squeeze-excite" if op == "se" else op, tag="span")


def _draw_block(block: LayerBlock, most_macs: int) -> None:
    with div("lblock"):
        with div():
            text(block.name)
            with div("flow tight"):
                for tag in block.tags:
                    text(tag, "op-tag", "span")
        with div(), div("macs"):
            for layer in block.layers:
                if layer.macs:
                    with div(operation_class(layer.op)).style(f"width: {100 * layer.macs / most_macs:.2f}%"):
                        ui.tooltip(
                            f"{layer.name}: {layer.op} {layer.detail}, {shape_text(layer.in_shape)} to "
                            f"{shape_text(layer.out_shape)}, {formatting.count(layer.macs)} MACs"
                        )
        text(shape_text(block.out_shape))
        text(formatting.count(block.params))
        text(formatting.count(block.macs))


def draw_choices(blocks: Sequence[LayerBlock], choices: Mapping[str, int | float | str]) -> None:
    """The choice of every decision of the space, folded."""
    with div("card"), div("fold", "details"):
        text(f"Choices ({len(choices)})", tag="summary")
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                text("Decision", tag="th")
                text("Choice", tag="th")
            for decision, choice in choices.items():
                used = is_used(decision, blocks, choices)
                with div("" if used else "muted", "tr"):
                    text(decision, "mono", "td")
                    note = "" if used else " (not used at this depth)"
                    text(f"{choice_text(choice)}{note}", "", "td")
