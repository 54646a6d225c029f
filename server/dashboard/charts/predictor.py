"""Measured over predicted latency of a predictor's held-out architectures."""

from __future__ import annotations

from nas.schemas.predictors import PredictorCardSchema
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BAD,
    FAINT,
    INK,
    SEARCH,
    Options,
    Series,
    base_options,
    legend,
    plain_line_series,
    scatter_series,
    tooltip,
    tooltip_html,
    value_axis,
)

LatencyRow = tuple[float, float, float]  # predicted, measured, upper bound, all in ms


def predictor_chart(card: PredictorCardSchema) -> Options:
    """Measured over predicted latency of held-out architectures, with the line of equality and the calibrated bound;
    uploaded latency where it comes from a table, which the service did not measure."""
    evidence = "Uploaded" if card.source == "table" else "Measured"
    rows = sorted(zip(card.predicted_ms, card.measured_ms, card.upper_ms, strict=True))
    inside = [r for r in rows if r[1] <= r[2]]
    outside = [r for r in rows if r[1] > r[2]]
    low, high = min([r[0] for r in rows], default=0.0), max([r[0] for r in rows], default=1.0)
    series = [
        plain_line_series("equality", f"Predicted = {evidence.lower()}", [(low, low), (high, high)], FAINT, "dotted"),
        plain_line_series("bound", "95 % upper bound", [(p, u) for p, _, u in rows], INK, "dashed"),
        _points("measured.inside", "At or below its bound", inside, evidence, "circle", SEARCH),
        _points("measured.outside", "Above its bound", outside, evidence, "triangle", BAD),
    ]
    measured_axis = value_axis(f"{evidence} latency (ms)", [v for r in rows for v in r[1:]] + [low], floor=0.0, gap=44)
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis("Predicted latency (ms)", [low, high], floor=0.0),
        "yAxis": measured_axis,
        "series": series,
    }


def _points(series_id: str, name: str, rows: list[LatencyRow], evidence: str, symbol: str, colour: str) -> Series:
    data = [
        {
            "value": [predicted, measured],
            "tip": tooltip_html(
                "Held-out architecture",
                [
                    ("Predicted", formatting.quantity(predicted, "ms")),
                    (evidence, formatting.quantity(measured, "ms")),
                    ("Upper bound", formatting.quantity(upper, "ms")),
                ],
            ),
        }
        for predicted, measured, upper in rows
    ]
    return scatter_series(series_id, name, data, symbol, colour, size=9)
