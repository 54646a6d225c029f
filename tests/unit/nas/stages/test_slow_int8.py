"""Networks that int8 makes slower are found and explained."""

from __future__ import annotations

import pytest

from nas.core.device import Measurement
from nas.core.placement import LayerTime
from nas.stages.slow_int8 import slower_than_float32


def measured(ms: float, **operators_ms: float) -> Measurement:
    layers = tuple(LayerTime(f"n{i}", name, "CPU", ms) for i, (name, ms) in enumerate(operators_ms.items()))
    return Measurement("p", "d", ms, 0.98 * ms, 1.02 * ms, 10, 0.01, 1.0, layers=layers)


def test_planted_slow_int8_is_named_with_the_operators_that_cause_it() -> None:
    why = slower_than_float32(
        measured(1.0, Conv=0.7, HardSwish=0.3),
        measured(1.5, QLinearConv=0.4, HardSwish=0.3, QuantizeLinear=0.5, DequantizeLinear=0.29, Reshape=0.01),
    )
    assert why is not None
    assert "1.5 ms against 1 ms" in why
    assert "QuantizeLinear (+0.5 ms), QLinearConv (+0.4 ms), DequantizeLinear (+0.29 ms)" in why
    assert "HardSwish" not in why


@pytest.mark.parametrize("int8_ms", [0.5, 1.0, 1.03])
def test_int8_that_is_faster_or_too_close_to_call_is_not_named(int8_ms: float) -> None:
    assert slower_than_float32(measured(1.0, Conv=1.0), measured(int8_ms, QLinearConv=int8_ms)) is None


def test_what_was_not_measured_says_nothing() -> None:
    refused = Measurement("p", "d", None, None, None, 10, 0.01, 1.0, refused="restless")
    assert slower_than_float32(None, measured(1.0)) is None
    assert slower_than_float32(measured(1.0), refused) is None
    assert slower_than_float32(measured(1.0), measured(2.0)) == "int8 is slower than float32: 2 ms against 1 ms"
