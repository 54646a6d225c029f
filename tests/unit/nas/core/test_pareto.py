"""Fronts and hypervolumes, each against a second implementation, and their laws as Hypothesis properties."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from nas.core.pareto import Mask, hypervolume, non_dominated, weakly_dominated
from tests.support import pareto as second


def brute_force(losses_NM: Floats) -> Mask:
    """The definition, pair by pair."""
    return np.array([not any((q <= p).all() and (q < p).any() for q in losses_NM) for p in losses_NM], dtype=bool)


def inclusion_exclusion(losses_NM: Floats, reference_M: Floats) -> float:
    """Volume of a union of boxes by inclusion and exclusion over all subsets: slow, and hard to get wrong."""
    boxes = losses_NM[(losses_NM < reference_M).all(axis=1)]
    total = 0.0
    for k in range(1, len(boxes) + 1):
        for subset in combinations(boxes, k):
            total += (-1) ** (k + 1) * float(np.prod(reference_M - np.max(subset, axis=0)))
    return total


# A coarse grid brings ties, duplicates and points on the reference; floats bring the general case.
coarse = st.integers(0, 5).map(float)
fine = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@st.composite
def clouds(draw: st.DrawFn, most: int = 40, least: int = 0, objectives: tuple[int, int] = (2, 4)) -> Floats:
    n, m = draw(st.integers(least, most)), draw(st.integers(*objectives))
    points: Floats = draw(arrays(np.float64, (n, m), elements=draw(st.sampled_from([coarse, fine]))))
    return points


@given(clouds(objectives=(1, 5)))
def test_non_dominated_is_the_definition(losses_NM: Floats) -> None:
    assert non_dominated(losses_NM).tolist() == brute_force(losses_NM).tolist()


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_non_dominated_over_many_chunks(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for losses_NM in (rng.normal(size=(400, objectives)), rng.integers(0, 9, size=(400, objectives)).astype(float)):
        assert non_dominated(losses_NM).tolist() == brute_force(losses_NM).tolist()


def test_equal_points_all_stay_and_infinite_losses_count() -> None:
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])).tolist() == [True, True, False]
    assert non_dominated(np.array([[0.0, np.inf], [0.0, np.inf], [1.0, np.inf], [2.0, 5.0]])).tolist() == [
        True,
        True,
        False,
        True,
    ]
    with pytest.raises(InvalidInput, match="NaN"):
        non_dominated(np.array([[np.nan, 1.0]]))


@given(clouds(most=9))
@settings(max_examples=60)
def test_hypervolume_is_inclusion_and_exclusion(losses_NM: Floats) -> None:
    reference_M = np.full(losses_NM.shape[1], 4.0)
    expected = inclusion_exclusion(losses_NM, reference_M)
    assert hypervolume(losses_NM, reference_M) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("objectives", "points"), [(2, 500), (3, 300), (4, 60)])
def test_hypervolume_is_that_of_another_library(objectives: int, points: int) -> None:
    from pymoo.indicators.hv import HV

    rng = np.random.default_rng(objectives)
    cloud = rng.random((points, objectives))
    sphere = np.abs(rng.normal(size=(points, objectives)))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    for losses_NM in (cloud, sphere, 1.0 - sphere):
        reference_M = np.full(objectives, 0.9)
        expected = HV(ref_point=reference_M)(losses_NM)
        assert hypervolume(losses_NM, reference_M) == pytest.approx(expected, rel=1e-9)
        assert expected > 0


@given(clouds(most=15, least=1))
@settings(max_examples=60)
def test_hypervolume_grows_with_points_and_ignores_order(losses_NM: Floats) -> None:
    reference_M = np.full(losses_NM.shape[1], 4.0)
    volumes = [hypervolume(losses_NM[:k], reference_M) for k in range(len(losses_NM) + 1)]
    assert volumes[0] == 0.0
    for before, after in pairwise(volumes):
        assert after >= before * (1 - 1e-12)
    assert hypervolume(losses_NM[::-1], reference_M) == pytest.approx(volumes[-1], rel=1e-12)


def test_hypervolume_counts_only_what_is_better_than_the_reference() -> None:
    reference_M = np.array([1.0, 1.0, 1.0])
    assert hypervolume(np.array([[0.5, 0.5, 1.0], [2.0, 0.0, 0.0]]), reference_M) == 0.0
    assert hypervolume(np.array([[0.5, 0.5, 0.5], [2.0, 0.0, 0.0]]), reference_M) == 0.125
    for wrong in (np.zeros((1, 1)), np.zeros((1, 5))):
        with pytest.raises(InvalidInput, match="2 to 4 objectives"):
            hypervolume(wrong, np.ones(wrong.shape[1]))
    with pytest.raises(InvalidInput, match="a reference for each"):
        hypervolume(np.zeros((1, 2)), np.ones(3))


@given(clouds(objectives=(1, 5)))
def test_non_dominated_agrees_with_the_second_implementation(losses_NM: Floats) -> None:
    assert non_dominated(losses_NM).tolist() == second.non_dominated(losses_NM).tolist()


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_non_dominated_of_many_points_agrees_with_the_second_implementation(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for losses_NM in (rng.random((6000, objectives)), rng.integers(0, 30, (6000, objectives)).astype(float)):
        assert (non_dominated(losses_NM) == second.non_dominated(losses_NM)).all()


@given(clouds())
def test_hypervolume_agrees_with_the_second_implementation(losses_NM: Floats) -> None:
    reference_M = np.full(losses_NM.shape[1], 4.0)
    expected = second.hypervolume(losses_NM, reference_M)
    assert hypervolume(losses_NM, reference_M) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(clouds(objectives=(2, 5)), st.integers(0, 20))
def test_fronts_are_the_same_without_weakly_dominated_points(losses_NM: Floats, earlier: int) -> None:
    first = losses_NM[:earlier]
    keep = np.concatenate([np.ones(len(first), dtype=bool), ~weakly_dominated(losses_NM[earlier:], first)])
    front = np.unique(losses_NM[non_dominated(losses_NM)], axis=0)
    assert np.unique(losses_NM[keep][non_dominated(losses_NM[keep])], axis=0).tolist() == front.tolist()
