"""Latencies of the same architectures on two devices."""

from __future__ import annotations

from collections.abc import Sequence

from nas.schemas.devices import DeviceComparisonSchema, LatencyPairSchema
from server.dashboard import formatting
from server.dashboard.charts.options import (
    BASELINE,
    FAINT,
    PURPLE,
    SEARCH,
    Datum,
    Options,
    base_options,
    legend,
    plain_line_series,
    scatter_series,
    tooltip,
    tooltip_html,
    value_axis,
)

# By the number of devices on which an architecture was measured: series, legend, symbol, colour, size.
_GROUPS = (
    ("pairs.none", "Predicted on both", "diamond", BASELINE, 6),
    ("pairs.one", "Measured on one", "rect", PURPLE, 7),
    ("pairs.both", "Measured on both", "circle", SEARCH, 9),
)


def comparison_chart(comparison: DeviceComparisonSchema) -> Options:
    """Latency on one device over latency on the other, by where it was measured."""
    groups: tuple[list[LatencyPairSchema], ...] = ([], [], [])
    for pair in comparison.pairs:
        groups[[pair.first_kind, pair.second_kind].count("measured")].append(pair)
    first_ms, second_ms = [p.first_ms for p in comparison.pairs], [p.second_ms for p in comparison.pairs]
    low, high = min(first_ms, default=0.0), max(first_ms, default=1.0)
    ratio = comparison.ratio
    series = [
        plain_line_series("ratio", f"{ratio:.2f} times", [(low, low * ratio), (high, high * ratio)], FAINT, "dotted"),
        *(
            scatter_series(series_id, name, _data(comparison, pairs), symbol, colour, size=size)
            for (series_id, name, symbol, colour, size), pairs in zip(_GROUPS, groups, strict=True)
        ),
    ]
    return {
        **base_options(),
        "legend": legend(series),
        "tooltip": tooltip(),
        "xAxis": value_axis(f"Latency on {comparison.first} (ms)", first_ms, floor=0.0),
        "yAxis": value_axis(f"Latency on {comparison.second} (ms)", second_ms, floor=0.0, gap=44),
        "series": series,
    }


def _data(comparison: DeviceComparisonSchema, pairs: Sequence[LatencyPairSchema]) -> list[Datum]:
    return [
        {
            "value": [p.first_ms, p.second_ms],
            "tip": tooltip_html(
                p.arch,
                [
                    (f"{comparison.first} ({p.first_kind})", formatting.quantity(p.first_ms, "ms")),
                    (f"{comparison.second} ({p.second_kind})", formatting.quantity(p.second_ms, "ms")),
                ],
            ),
        }
        for p in pairs
    ]
