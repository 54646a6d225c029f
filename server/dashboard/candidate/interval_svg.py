"""A measured latency in its confidence interval, as an SVG."""

from __future__ import annotations

_X, _WIDTH = 10, 380


def interval_svg(low_ms: float, median_ms: float, high_ms: float, promised_ms: float | None) -> str:
    """The median in its 95 % interval, beside the latency that was promised before measuring."""
    values = [low_ms, median_ms, high_ms] + ([promised_ms] if promised_ms is not None else [])
    first, last = min(values), max(values)
    pad = (last - first) * 0.16 or last * 0.05
    first, last = first - pad, last + pad

    def x(value_ms: float) -> float:
        return _X + _WIDTH * (value_ms - first) / (last - first)

    promise = ""
    if promised_ms is not None:
        at = f"{x(promised_ms):.1f}"
        promise = (
            f'<line x1="{at}" x2="{at}" y1="16" y2="44" stroke="var(--c-bad)" stroke-width="2" '
            f'stroke-dasharray="5 3"/><text x="{at}" y="11" class="dim">promised {promised_ms:.3g} ms</text>'
        )
    low_x, width = x(low_ms), max(x(high_ms) - x(low_ms), 4.0)
    return (
        '<svg class="shape" viewBox="0 0 400 62" role="img" '
        'aria-label="Median and 95 % interval, and the promised latency" style="max-width:520px">'
        f'<line x1="{_X}" x2="{_X + _WIDTH}" y1="30" y2="30" stroke="var(--grid)" stroke-width="2"/>'
        f'<rect x="{low_x:.1f}" width="{width:.1f}" y="22" height="16" rx="3" fill="var(--c-search)" '
        f'fill-opacity="0.35"/>{promise}'
        f'<circle cx="{x(median_ms):.1f}" cy="30" r="5" fill="var(--c-search)"/>'
        f'<text x="{x(median_ms):.1f}" y="56">{median_ms:.4g} ms</text></svg>'
    )
