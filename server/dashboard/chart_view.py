"""Charts on a page."""

from __future__ import annotations

from nicegui import ui

from server.dashboard.charts.options import Options


def labelled_chart(options: Options, classes: str, label: str) -> ui.echart:
    """A chart as an image with a label for screen readers."""
    return ui.echart(options, renderer="svg").classes(classes).props(f'role="img" aria-label="{label}"')


def replace_options(chart: ui.echart, options: Options) -> None:
    """Give a chart new data without creating it again."""
    chart.options.clear()
    chart.options.update(options)
    chart.update()
