"""The intake report of a model: drawn on its layers, and as tables with the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nicegui import ui

from nas.core.listing import first_names
from nas.models.graph import TensorShape
from nas.models.intake import IntakeReport
from server.dashboard.elements import definition_list, div, heading, text
from server.dashboard.models.report_svg import report_svg

_LISTED = 4  # names of layers in a cell of a table; its tooltip has all


def draw_report(report: IntakeReport | None) -> None:
    """Facts, the drawing, and a table each of what may be narrowed, skipped, must stay, and is not known; nothing for
    None."""
    if report is None:
        return
    with div("card stack"):
        heading("What can be made smaller", 2)
        text("height: resolution · thickness: channels · blue: may be narrowed · grey: stays · bracket: may be skipped")
        with div("scroll"):
            ui.html(report_svg(report), sanitize=False)
        definition_list(_facts(report))
    _draw_table(
        "May be narrowed",
        ("Group", "Units", "Channels", "Narrowed together", "Read by"),
        ((g.name, str(g.units), str(g.channels), g.layers, g.readers) for g in report.groups),
    )
    _draw_table("May be skipped", ("Block", "Layers that go with it"), ((b.name, b.layers) for b in report.blocks))
    _draw_table(
        "Stays as wide as it is",
        ("Layer", "Channels", "Because of", "Reason"),
        ((f.layer, str(f.channels), f.cause, f.reason) for f in report.fixed),
    )
    _draw_table(
        "Runs as it is",
        ("Module", "Operator", "Reason"),
        ((o.module, o.operator, o.reason) for o in report.opaque),
    )


def _facts(report: IntakeReport) -> list[tuple[str, str]]:
    batch_norms = str(report.batch_norms)
    if report.convolutions and not report.batch_norms:
        batch_norms = "none: they were folded into the convolutions when the file was made, or the model has none"
    return [
        ("parameters", f"{report.parameters:,}"),
        ("input", ", ".join(shape_text(shape) for _, shape in report.inputs)),
        ("output", ", ".join(shape_text(shape) for shape in report.outputs)),
        ("images at once", "any number" if report.any_batch else "only as many as in its example"),
        ("batch norms", batch_norms),
        ("resolution", report.resolution.sentence),
    ]


def shape_text(shape: TensorShape) -> str:
    """Sizes such as ``3 × 224 × 224``."""
    return " × ".join(map(str, shape))


def _draw_table(title: str, columns: Sequence[str], rows: Iterable[tuple[str | tuple[str, ...], ...]]) -> None:
    cells = list(rows)
    if not cells:
        return
    with div("card stack"):
        heading(title, 2)
        with div("scroll"), div("plain", "table"):
            with div("", "tr"):
                for column in columns:
                    text(column, tag="th")
            for row in cells:
                with div("", "tr"):
                    for cell in row:
                        _draw_cell(cell)


def _draw_cell(cell: str | tuple[str, ...]) -> None:
    if isinstance(cell, str):
        text(cell, "reason" if " " in cell else "", "td")  # a sentence, not a name
        return
    with text(first_names(cell, _LISTED), tag="td"):
        if len(cell) > _LISTED:
            ui.tooltip(", ".join(cell))
