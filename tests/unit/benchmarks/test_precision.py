"""What the benchmark of precisions makes of fronts."""

from __future__ import annotations

import pytest

from benchmarks.precision import volumes


def test_fronts_are_judged_in_one_box_with_the_deviation_over_seeds() -> None:
    fast, slow = (1.0, 80.0), (3.0, 90.0)
    fronts = {"float32_then_int8": [[slow], [slow]], "int8": [[fast, slow], [fast]], "mixed": [[fast, slow]] * 2}
    result = volumes(fronts)
    corner = 1 / 1.05  # where the slowest, or the least accurate, network lies in the box
    of_slow, of_fast = (1 - corner) * 1.0, 1.0 * (1 - corner)
    both = of_slow + of_fast - (1 - corner) ** 2
    assert result["float32_then_int8"] == pytest.approx(of_slow)
    assert result["mixed"] == pytest.approx(both)
    assert result["int8"] == pytest.approx((both + of_fast) / 2)
    assert result["deviation"] == pytest.approx((((both - of_fast) ** 2 / 2) / 3) ** 0.5)
    assert volumes({name: of_seed[:1] for name, of_seed in fronts.items()})["deviation"] is None
