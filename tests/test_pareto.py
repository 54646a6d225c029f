"""Fronts and hypervolume, against second implementations and by their defining properties."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pymoo.indicators.hv import HV

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from nas.core.metrics import Goal
from nas.core.pareto import ParetoFront, hypervolume, non_dominated

# Few distinct values, so that ties and equal points are common.
values = st.integers(0, 6).map(float)


def losses(low: int = 1, high: int = 4, points: int = 24) -> st.SearchStrategy[Floats]:
    """Small loss matrices full of ties."""
    shapes = st.tuples(st.integers(0, points), st.integers(low, high))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=values))


def brute_force(losses_NM: Floats) -> list[bool]:
    """The definition, pair by pair."""

    def dominates(a: Floats, b: Floats) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [not any(dominates(other, row) for other in losses_NM) for row in losses_NM]


def inclusion_exclusion(losses_NM: Floats, reference_M: Floats) -> float:
    """The volume of a union of boxes, by alternating sums over all subsets. Exponential: few points only."""
    rows = range(len(losses_NM))
    subsets = chain.from_iterable(combinations(rows, k) for k in range(1, len(losses_NM) + 1))
    total = 0.0
    for subset in subsets:
        sides = np.maximum(reference_M - losses_NM[list(subset)].max(axis=0), 0.0)
        total += (-1) ** (len(subset) + 1) * float(sides.prod())
    return total


@given(losses())
def test_non_dominated_equals_the_definition(losses_NM: Floats) -> None:
    assert non_dominated(losses_NM).tolist() == brute_force(losses_NM)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_non_dominated_of_many_points(m: int) -> None:
    rng = np.random.default_rng(m)
    losses_NM = np.round(rng.random((400, m)), 2)
    assert non_dominated(losses_NM).tolist() == brute_force(losses_NM)


def test_equal_points_are_all_kept() -> None:
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist() == [True] * 3 + [False]


@settings(deadline=None)
@given(losses(low=2, points=7), values)
def test_hypervolume_equals_inclusion_exclusion(losses_NM: Floats, worst: float) -> None:
    reference = np.full(losses_NM.shape[1], worst)
    assert hypervolume(losses_NM, reference) == pytest.approx(inclusion_exclusion(losses_NM, reference))


@pytest.mark.parametrize(("m", "n"), [(2, 200), (3, 60), (4, 25)])
def test_hypervolume_equals_pymoo(m: int, n: int) -> None:
    losses_NM = np.random.default_rng(m).random((n, m)) * 1.1
    reference = np.ones(m)
    assert hypervolume(losses_NM, reference) == pytest.approx(float(HV(ref_point=reference)(losses_NM)), rel=1e-9)


def test_hypervolume_by_hand() -> None:
    assert hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([3.0, 3.0])) == 3.0
    assert hypervolume(np.array([[1.0, 1.0, 1.0]]), np.array([2.0, 3.0, 4.0])) == 6.0
    assert hypervolume(np.array([[3.0, 0.0]]), np.array([3.0, 3.0])) == 0.0  # on the border: no volume


@settings(deadline=None)
@given(losses(low=2, points=10))
def test_hypervolume_ignores_dominated_points_and_order(losses_NM: Floats) -> None:
    reference = np.full(losses_NM.shape[1], 7.0)
    whole = hypervolume(losses_NM, reference)
    assert hypervolume(losses_NM[::-1], reference) == pytest.approx(whole)
    assert hypervolume(losses_NM[non_dominated(losses_NM)], reference) == pytest.approx(whole)


@settings(deadline=None)
@given(losses(low=2, points=10))
def test_hypervolume_grows_exactly_with_points_that_are_not_covered(losses_NM: Floats) -> None:
    reference = np.full(losses_NM.shape[1], 7.0)
    before = 0.0
    for i in range(len(losses_NM)):
        after = hypervolume(losses_NM[: i + 1], reference)
        covered = bool((losses_NM[:i] <= losses_NM[i]).all(axis=1).any())
        assert after == pytest.approx(before) if covered else after > before
        before = after


@pytest.mark.parametrize(("m", "sizes"), [(1, 1), (5, 5), (2, 3)])
def test_hypervolume_refuses_what_it_cannot_compute(m: int, sizes: int) -> None:
    with pytest.raises(InvalidInput, match="2 to 4 objectives"):
        hypervolume(np.zeros((3, m)), np.ones(sizes))


GOALS: tuple[Goal, ...] = ("max", "min", "min")
points = st.lists(st.tuples(values, values, values), max_size=20).map(
    lambda rows: [(str(i), r) for i, r in enumerate(rows)]
)


@given(points, st.randoms(use_true_random=False), st.integers(1, 5))
def test_a_front_does_not_depend_on_order_or_batches(named: list[tuple[str, tuple[float, ...]]], rnd, size) -> None:  # type: ignore[no-untyped-def]
    whole = ParetoFront(GOALS).insert(named)
    rnd.shuffle(named)
    front = ParetoFront(GOALS)
    for i in range(0, len(named), size):
        front = front.insert(named[i : i + size])
    assert front == whole


@given(points)
def test_inserting_again_changes_nothing(named: list[tuple[str, tuple[float, ...]]]) -> None:
    front = ParetoFront(GOALS).insert(named)
    assert front.insert(named) == front
    assert front.insert([]) == front


@given(points)
def test_members_are_those_of_the_definition(named: list[tuple[str, tuple[float, ...]]]) -> None:
    front = ParetoFront(GOALS).insert(named)
    signed = np.array([r for _, r in named]).reshape(-1, 3) * [-1.0, 1.0, 1.0]
    assert set(front.members) == {name for (name, _), kept in zip(named, brute_force(signed), strict=True) if kept}
    assert list(zip(front.values, front.members, strict=True)) == sorted(zip(front.values, front.members, strict=True))


@given(points)
def test_a_fronts_hypervolume_never_falls(named: list[tuple[str, tuple[float, ...]]]) -> None:
    front, before = ParetoFront(GOALS), 0.0
    for point in named:
        front = front.insert([point])
        after = front.hypervolume((-1.0, 7.0, 7.0))
        assert after >= before - 1e-9
        before = after
    assert before > 0 or not named


def test_goals_set_the_direction() -> None:
    front = ParetoFront(("max", "min")).insert([("a", (90.0, 2.0)), ("b", (80.0, 1.0)), ("c", (79.0, 1.5))])
    assert front.members == ("b", "a")
    assert front.hypervolume((70.0, 3.0)) == pytest.approx(20.0 * 1.0 + 10.0 * 1.0)


@pytest.mark.parametrize("bad", [(1.0,), (1.0, 2.0, 3.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_points_that_are_not_points_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput, match="point a: expected 2 finite values"):
        ParetoFront(("max", "min")).insert([("a", bad)])


def test_a_point_cannot_change() -> None:
    front = ParetoFront(("max", "min")).insert([("a", (90.0, 2.0))])
    with pytest.raises(InvalidInput, match="inserted before"):
        front.insert([("a", (91.0, 2.0))])
