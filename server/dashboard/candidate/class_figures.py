"""How a candidate does by class: its figures, and what the images of each class were taken for."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from nicegui import ui

from nas.core.tasks import installed_tasks
from nas.schemas.candidates import CandidateSchema, ConfusionSchema
from server.dashboard import formatting
from server.dashboard.elements import div, heading, text


def draw_class_figures(candidate: CandidateSchema, figures: Mapping[str, float | None]) -> None:
    """The figures that the candidate's task has by class on test images, the worst class first."""
    task = next((t for t in installed_tasks().values() if t.tested in candidate.metrics and t.by_class), None)
    if not figures or task is None:
        return
    name = task.by_class.replace("_", " ")
    with div("stack tight"):
        heading(f"{name[0].upper()}{name[1:]} by class", 3)
        text(f"{name[0].upper()}{name[1:]} of the exported network on test images, the lowest first.", "small muted")
        with (
            div("scroll short").props('tabindex="0" role="region" aria-label="figures by class"'),
            div("plain", "table"),
        ):
            for name, value in sorted(figures.items(), key=lambda item: -1.0 if item[1] is None else item[1]):
                with div("", "tr"):
                    text(name, tag="td")
                    text("no images" if value is None else formatting.quantity(value, "%"), "num", "td")


def draw_confusion(confusion: ConfusionSchema | None) -> None:
    """The confusion matrix; nothing where there is none."""
    if confusion is None:
        return
    with div("stack tight"):
        heading("Confusion matrix", 3)
        text("Test images of the class of each row, by the class that the network answered.", "small muted")
        with div("scroll").props('tabindex="0" role="region" aria-label="confusion matrix"'):
            ui.html(confusion_html(confusion), sanitize=False)


def confusion_html(confusion: ConfusionSchema) -> str:
    """The matrix as a table, shaded by the share of the row; right answers and mistakes in different colours."""
    names = [escape(name) for name in confusion.classes]
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    rows = []
    for actual, counts in enumerate(confusion.counts):
        total = sum(counts) or 1
        cells = "".join(
            f'<td class="{"right" if actual == answered else "wrong"}" style="--share:{100 * n / total:.0f}%">'
            f"{n or ''}</td>"
            for answered, n in enumerate(counts)
        )
        rows.append(f'<tr><th scope="row">{names[actual]}</th>{cells}</tr>')
    corner = '<td class="muted small">true ↓ answered →</td>'
    return f'<table class="confusion num"><tr>{corner}{head}</tr>{"".join(rows)}</table>'
