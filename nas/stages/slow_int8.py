"""Networks that quantisation makes slower: found by measuring both, and explained by the operators that take the
time."""

from __future__ import annotations

from collections.abc import Mapping

from nas.core.device import Measurement
from nas.core.placement import operator_ms
from nas.core.runtimes import Precision

_NAMED = 3  # operators that a warning names
_LEAST_SHARE = 0.02  # of the time in float32 that an operator must add to be named


def slower_than_float32(
    float32: Measurement | None, other: Measurement | None, precision: Precision = "int8"
) -> str | None:
    """Why a network is slower in another ``precision`` than in float32, for people; None where it is not: where its
    interval is not above."""
    if float32 is None or other is None or float32.high_ms is None or other.low_ms is None:
        return None
    if other.low_ms <= float32.high_ms:
        return None
    slower = f"{precision} is slower than float32: {other.median_ms:.4g} ms against {float32.median_ms:.4g} ms"
    causes = added_ms(operator_ms(float32.layers), operator_ms(other.layers))
    if not causes:
        return slower
    named = ", ".join(f"{name} (+{ms:.3g} ms)" for name, ms in causes.items())
    return f"{slower}; what it adds are {named}"


def added_ms(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The operators that take longer than before and by how much, the worst first."""
    total_ms = sum(before.values())
    grown = {name: ms - before.get(name, 0.0) for name, ms in after.items()}
    worst = sorted(grown.items(), key=lambda pair: -pair[1])[:_NAMED]
    return {name: ms for name, ms in worst if ms > _LEAST_SHARE * total_ms}
