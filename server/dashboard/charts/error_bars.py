"""Error bars: 95 % intervals of measured latencies, and of accuracies on test images."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.metrics import share_interval
from nas.schemas.candidates import CandidateSchema
from server.dashboard.charts.axes import ChartAxes
from server.dashboard.charts.candidate_tooltip import candidate_datum
from server.dashboard.charts.options import Datum, Series

_ALONG_X = """(params, api) => {
  const [low, high] = [2, 3].map(i => api.coord([api.value(i), api.value(1)]));
  const line = (x1, y1, x2, y2) => ({type: 'line', shape: {x1, y1, x2, y2}, style: {stroke: 'COLOUR', lineWidth: 1.2}});
  const cap = x => line(x, low[1] - 4, x, low[1] + 4);
  return {type: 'group', children: [line(low[0], low[1], high[0], high[1]), cap(low[0]), cap(high[0])]};
}"""
_ALONG_Y = """(params, api) => {
  const [low, high] = [2, 3].map(i => api.coord([api.value(0), api.value(i)]));
  const style = {stroke: 'COLOUR', lineWidth: 1, opacity: 0.55};
  const line = (x1, y1, x2, y2) => ({type: 'line', shape: {x1, y1, x2, y2}, style});
  const cap = y => line(low[0] - 3, y, low[0] + 3, y);
  return {type: 'group', children: [line(low[0], low[1], high[0], high[1]), cap(low[1]), cap(high[1])]};
}"""


def latency_intervals(
    series_id: str,
    name: str,
    candidates: Sequence[CandidateSchema],
    axes: ChartAxes,
    colour: str,
) -> Series:
    """Horizontal bars over measured latency in ms; none over other metrics, such as a share of a bound. A datum's value
    is x, y, lower and upper end."""
    data = []
    for candidate in candidates if axes.x.metric == "measured_ms" else ():
        measurement = candidate.measurement
        if measurement is not None and measurement.low_ms is not None and measurement.high_ms is not None:
            datum = candidate_datum(candidate, axes.x.metric, axes.y.metric)
            data.append(datum | {"value": [*datum["value"], measurement.low_ms, measurement.high_ms]})
    return _bars(series_id, name, data, _ALONG_X.replace("COLOUR", colour), {"x": [0, 2, 3], "y": 1})


def quality_intervals(
    series_id: str,
    name: str,
    candidates: Sequence[CandidateSchema],
    axes: ChartAxes,
    colour: str,
    test_images: int | None,
) -> Series:
    """Vertical bars over an accuracy on ``test_images`` images, of members of the front alone: others would hide them.
    None where the number of images is not known, and for measures that are no share of images."""
    with_accuracy = candidates if axes.y.metric == "test_accuracy" and test_images else ()
    data = []
    for candidate in with_accuracy:
        if candidate.on_front:
            datum = candidate_datum(candidate, axes.x.metric, axes.y.metric)
            assert test_images is not None
            data.append(datum | {"value": [*datum["value"], *share_interval(datum["value"][1], test_images)]})
    return _bars(series_id, name, data, _ALONG_Y.replace("COLOUR", colour), {"x": 0, "y": [1, 2, 3]})


def _bars(series_id: str, name: str, data: list[Datum], render: str, encode: dict[str, object]) -> Series:
    return {
        "id": series_id,
        "name": name,
        "type": "custom",
        ":renderItem": render,
        "encode": encode,
        "data": data,
        "animation": False,
        "silent": True,  # the pointer meets the point
        "clip": True,
        "z": 1,
    }
