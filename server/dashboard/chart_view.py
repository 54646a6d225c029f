"""Charts on a page."""

from __future__ import annotations

from nicegui import json, ui

from server.dashboard.charts.options import Options


def labelled_chart(options: Options, classes: str, label: str) -> ui.echart:
    """A chart as an image with a label for screen readers."""
    chart = ui.echart(_with_data_as_script(options), renderer="svg").classes(classes)
    chart._update_method = None  # it draws itself once it is on the page; NiceGUI would have it do so twice
    return chart.props(f'role="img" aria-label="{label}"')


def replace_options(chart: ui.echart, options: Options) -> None:
    """Give a chart new data without creating it again."""
    chart._update_method = "update_chart"
    chart.options.clear()
    chart.options.update(_with_data_as_script(options))
    chart.update()


def _with_data_as_script(options: Options) -> Options:
    """The same chart with the data of each series as one expression of JavaScript. Of data as lists, NiceGUI would
    watch each number for changes, and so would Vue in the browser, which leaves frozen objects alone."""
    series = [
        {k: v for k, v in drawn.items() if k != "data"} | {":data": f"Object.freeze({json.dumps(drawn['data'])})"}
        for drawn in options["series"]
    ]
    return options | {"series": series}
