"""Successive halving on non-dominated rank."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.halving import non_dominated_ranks, survivors

STAIRS = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [1.5, 1.5], [2.0, 2.0], [4.0, 4.0]])


def test_ranks_are_those_of_the_fronts_that_are_left() -> None:
    assert non_dominated_ranks(STAIRS).tolist() == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([0, 1, 2, 3, 4, 5], [True, True, True, False, False, False]),
        ([0, 1, 2], [True, True, True]),  # a front is not halved
        ([1, 3, 4, 5], [True, True, False, False]),
        ([1, 5], [True, False]),
        ([5], [True]),
        ([], []),
    ],
)
def test_the_half_that_is_dominated_most_is_given_up(rows: list[int], expected: list[bool]) -> None:
    assert survivors(STAIRS[rows].reshape(-1, 2)).tolist() == expected


def test_equal_networks_fare_alike() -> None:
    assert survivors(np.ones((4, 2))).all()
    assert survivors(np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])).all()
