"""A handle on the Pareto chart that can be dragged along the horizontal axis, to try a bound."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

# Puts a strip over the whole height at the tried bound, else at that of the search, else at the right end, and reports
# where it is let go. It runs after every drawing, so that it follows zoom and new data.
_PLACE = """
() => {
  const chart = getElement(CHART)?.chart;
  if (!chart) return;
  const option = chart.getOption();
  const mark = id => option.series.find(s => s.id === id)?.markLine?.data?.find(d => d.xAxis != null)?.xAxis;
  const grid = chart.getModel().getComponent('grid', 0).coordinateSystem.getRect();
  const right = grid.x + grid.width;
  const bound = mark('limit') ?? mark('bound');
  const wanted = bound == null ? right : chart.convertToPixel({xAxisIndex: 0}, bound);
  const x = Math.min(right, Math.max(grid.x, wanted));
  const place = [x, grid.y, grid.height].map(Math.round).join();
  if (chart.__boundHandle === place) return;
  chart.__boundHandle = place;
  chart.setOption({graphic: [{
    id: 'bound-handle', type: 'rect', x, y: 0, z: 20, draggable: 'horizontal', cursor: 'ew-resize',
    shape: {x: -5, y: grid.y, width: 10, height: grid.height},
    style: {fill: '#8a4f9e', opacity: 0.16},
    ondragend: function () {
      const value = chart.convertFromPixel({xAxisIndex: 0}, this.x);
      if (value > 0) emitEvent('EVENT', value);
    },
  }]});
}
"""


def draggable_bound(chart: ui.echart, moved: Callable[[float], None]) -> None:
    """Put the handle on a chart; ``moved`` gets the bound where it is let go, in the units of the axis."""
    event = f"bound_dragged_{chart.id}"
    ui.on(event, lambda e: moved(float(e.args)))
    chart.on("chart:finished", js_handler=_PLACE.replace("CHART", str(chart.id)).replace("EVENT", event))
