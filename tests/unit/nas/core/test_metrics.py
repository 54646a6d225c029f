"""Metrics: the table, and the statistics against second implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.core.errors import UnknownName
from nas.core.metrics import (
    METRICS,
    OBJECTIVES,
    attainable,
    coverage,
    kendall,
    mape,
    metric_info,
    recall_by_class,
    share_interval,
    spearman,
)

# Few distinct values, so that ties are common.
pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30).map(
    lambda rows: np.array(rows, dtype=np.float64).T
)


def midranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, the mean rank for ties."""
    return np.array([(x < value).sum() + ((x == value).sum() + 1) / 2 for value in x])


@given(pairs)
@settings(deadline=None)  # the first call imports scipy.stats
def test_rank_correlations_equal_their_definitions(ab: np.ndarray) -> None:
    assume(len(set(ab[0])) > 1 and len(set(ab[1])) > 1)
    a, b = ab
    assert spearman(a, b) == pytest.approx(np.corrcoef(midranks(a), midranks(b))[0, 1])
    order_a, order_b = np.sign(a[:, None] - a[None, :]), np.sign(b[:, None] - b[None, :])
    norm = np.sqrt((order_a**2).sum() * (order_b**2).sum())
    assert kendall(a, b) == pytest.approx((order_a * order_b).sum() / norm)


@given(pairs)
def test_rank_correlations_see_order_only(ab: np.ndarray) -> None:
    assume(len(set(ab[0])) > 1 and len(set(ab[1])) > 1)
    a, b = ab
    for correlation in (spearman, kendall):
        assert correlation(a, b) == pytest.approx(correlation(b, a))
        assert correlation(np.exp(a), b**3) == pytest.approx(correlation(a, b))
        assert correlation(-a, b) == pytest.approx(-correlation(a, b))
        assert correlation(a, a) == pytest.approx(1.0)


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_a_constant_side_has_no_rank_correlation(correlation) -> None:  # type: ignore[no-untyped-def]
    assert math.isnan(correlation(np.ones(5), np.arange(5.0)))
    assert math.isnan(correlation(np.arange(5.0), np.ones(5)))


def test_mape_and_coverage_by_hand() -> None:
    truth = np.array([1.0, 2.0, 4.0])
    assert mape(truth, np.array([1.1, 1.8, 4.0])) == pytest.approx(20.0 / 3)
    assert coverage(truth, np.array([1.0, 1.9, 5.0])) == pytest.approx(2 / 3)  # at the bound is covered


def test_the_table_names_every_metric_once_and_keeps_kinds_apart() -> None:
    assert all(name == info.name for name, info in METRICS.items())
    assert metric_info("predicted_ms").kind == "predicted"
    assert metric_info("measured_ms").kind == "measured"
    assert len({info.label for info in METRICS.values()}) == len(METRICS)


def test_an_objective_reads_metrics_of_one_goal_and_ends_on_evidence() -> None:
    for objective, (running, final) in OBJECTIVES.items():
        assert METRICS[running].goal == METRICS[final].goal
        nobody_measures = objective == "energy"  # so it stays predicted, and says so
        assert METRICS[final].kind in (("predicted",) if nobody_measures else ("measured", "exact"))


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown metric 'mac'.*Did you mean 'macs'\?"):
        metric_info("mac")


@pytest.mark.parametrize("lowest", [0.13636812, 0.05, 136368.2, 1e-7, 3.0, 99.99999999, 0.2999999999999])
@pytest.mark.parametrize("digits", [4, 6])
def test_a_printed_limit_can_be_met(lowest: float, digits: int) -> None:
    printed = attainable(lowest, digits)
    assert float(printed) >= lowest
    assert float(printed) <= lowest * (1 + 10.0 ** (1 - digits))


def test_recall_of_classes() -> None:
    labels, answers = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 0, 0])
    assert recall_by_class(labels, answers, 4) == (50.0, pytest.approx(100 * 2 / 3), None, 0.0)


def test_the_interval_of_a_share_is_wilsons() -> None:
    """As solved by hand for 8 of 10: (p - share)^2 = 1.96^2 p (1 - p) / n."""
    low, high = share_interval(80.0, 10)
    assert (low, high) == (pytest.approx(49.02, abs=0.01), pytest.approx(94.33, abs=0.01))
    assert share_interval(100.0, 50)[1] == pytest.approx(100.0)
